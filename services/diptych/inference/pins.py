"""Adapters that tenants keep on the device: who asks for that, who has heard, whose files stay.

The pool knows which pins there are; here is whoever waits for one. An adapter's file is kept on
this machine for each tenant that has a pin of it, out of that tenant's own store.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from diptych.errors import DiptychError
from diptych.inference.adapter_pool import AdapterPool
from diptych.inference.adapter_units import Unit, unit_of
from diptych.inference.ports import AdapterLoader
from diptych.inference.trajectory import AdapterUse

__all__ = ["PinTicket", "PinWish", "Pinned", "Pins"]

Pinned = Callable[[DiptychError | None], None]
"""Hears that an adapter is pinned, or why not, once ``stats`` say so; from the engine's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinTicket:
    """A pin that was asked for; its caller does one of both in the end, from any thread."""

    keep: Callable[[], None]
    """The answer was heard: from now on only unpinning ends the pin."""
    give_up: Callable[[], None]
    """Nobody hears the answer: leave nothing pinned that nobody else asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PinWish:
    """One call that asks for a pin."""

    use: AdapterUse
    done: Pinned

    @property
    def unit(self) -> Unit:
        """Return what it wants on the device."""
        return unit_of(self.use)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The pins of all tenants; owned by the engine thread."""

    pool: AdapterPool
    loader: AdapterLoader
    _wishes: dict[Unit, list[PinWish]] = field(default_factory=dict)
    """Who waits for a pin; no unit without anybody."""

    def ask(self, wish: PinWish) -> None:
        """Let ``wish`` wait until its unit is on the device."""
        self._wishes.setdefault(wish.unit, []).append(wish)

    def asked(self, unit: Unit) -> tuple[AdapterUse, ...]:
        """Return what those who wait for a pin of ``unit`` asked for, the oldest first."""
        return tuple(wish.use for wish in self._wishes.get(unit, ()))

    def grant(self, unit: Unit) -> list[PinWish]:
        """Pin a unit that is on the device for all who wait for that, and return them."""
        wishes = self._wishes.pop(unit)
        for wish in wishes:
            self.pool.pin(unit, wish.use.tenant, wish)
            self.loader.keep(wish.use)
        return wishes

    def refuse(self, unit: Unit, tenant: str | None = None) -> list[PinWish]:
        """Let those of a tenant, or all, wait no longer for a pin of ``unit``; return them."""
        wishes = self._wishes.pop(unit, [])
        refused = [wish for wish in wishes if tenant in {None, wish.use.tenant}]
        if others := [wish for wish in wishes if wish not in refused]:
            self._wishes[unit] = others
        return refused

    def refuse_all(self) -> list[PinWish]:
        """Let nobody wait any more, and return who did."""
        return [wish for unit in list(self._wishes) for wish in self.refuse(unit)]

    def give_up(self, wish: PinWish) -> None:
        """Leave nothing pinned that only ``wish`` asked for."""
        wishes = self._wishes.get(wish.unit, [])
        if wish in wishes:
            wishes.remove(wish)
            if not wishes:
                del self._wishes[wish.unit]
        else:
            self.pool.withdraw(wish.unit, wish.use.tenant, wish)
            self._let_go_unpinned(wish.use)

    def drop(self, use: AdapterUse) -> bool:
        """Drop the pin of a tenant; return whether there was one."""
        was_pinned = self.pool.unpin(unit_of(use), use.tenant)
        self._let_go_unpinned(use)
        return was_pinned

    def _let_go_unpinned(self, use: AdapterUse) -> None:
        if not self.pool.is_pinned(unit_of(use), use.tenant):
            self.loader.let_go(use)

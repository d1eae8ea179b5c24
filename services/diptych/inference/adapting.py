"""Bringing adapters to the device while other requests go on: pool, loader and executor joined.

A call's adapters are fetched and read by the loader's threads and put on the device by the
engine's thread, between ticks, when it is the call's turn and there is room. What waits for its
turn takes no more host memory than there is for adapters: beyond it only the first call's are read.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from diptych.errors import AdapterNotFound, DiptychError
from diptych.inference.adapter_pool import AdapterPool, Holder, PoolStats, Tier
from diptych.inference.adapter_units import Unit, unit_of
from diptych.inference.call import Call, Image
from diptych.inference.isolation import as_failure
from diptych.inference.pins import Pinned, Pins, PinTicket, PinWish
from diptych.inference.ports import AdapterLoader, Executor, Prepared
from diptych.inference.trajectory import AdapterState, AdapterUse, AdapterWaited

__all__ = ["AdapterStats", "Adapting"]

_log = logging.getLogger(__name__)

_MAX_LOADING: Final = 4
"""Units that are read at the same time, or next; what they take is known when they are."""

Uses = tuple[AdapterUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStats:
    """What adapters do, for metrics and for placing requests."""

    pool: PoolStats
    in_host: frozenset[str]
    """Digests of the adapters that are in host memory, those on the device too."""
    running: tuple[str, ...]
    """Names of the adapters that running images hold."""
    waiting: tuple[str, ...]
    """Names of the adapters of images that wait for a slot, as vLLM tells them."""
    num_waiting: int
    """Calls whose adapters are not all on the device yet."""


@dataclass(slots=True, kw_only=True, eq=False)
class Adapting:
    """The adapters of open calls; owned by the engine thread.

    ``post`` hands a function to the engine's thread; ``fail`` ends a call; ``queue`` yields the
    images that wait for a slot.
    """

    executor: Executor
    loader: AdapterLoader
    pool: AdapterPool
    post: Callable[[Callable[[], None]], None]
    fail: Callable[[Call, DiptychError], None]
    queue: Callable[[], Iterable[Image]]
    clock: Callable[[], float]
    stats: AdapterStats = field(init=False)
    """As of the last ``refresh``; any thread may read it."""
    _calls: dict[Unit, dict[Call, None]] = field(default_factory=dict)
    """Open calls that wait for a unit."""
    _pins: Pins = field(init=False)
    _prepared: dict[Unit, Prepared] = field(default_factory=dict)
    _running: Counter[str] = field(default_factory=Counter)
    _ended: DiptychError | None = None

    def __post_init__(self) -> None:
        self._pins = Pins(pool=self.pool, loader=self.loader)
        self.refresh()

    def expect(self, call: Call) -> None:
        """Begin to load what ``call`` needs and is not at hand."""
        for unit, uses in call.units.items():
            if self.pool.tier(unit) is Tier.DEVICE:
                self.pool.hit()
            else:
                self._want(unit, uses, call)

    def dismiss(self, call: Call) -> None:
        """Forget that ``call`` waits; what only it wanted is dropped."""
        for unit in call.units:
            calls = self._calls.get(unit, {})
            if call in calls:
                del calls[call]
                if not calls:
                    del self._calls[unit]
                self._drop_unwanted(unit)

    def choose(self, heads: Iterable[Image]) -> Image | None:
        """Return the first image that can start; what cannot yet is passed over.

        Once an image could not start for want of room, adapters that have had their slice get no
        more images and no others are brought in, so that lines become free. Of those whose turn
        it was before, the first that is not read is, room or not.
        """
        found, passed, blocked, now = None, [], False, self.clock()
        for image in heads:
            call, units = image.call, image.call.units.keys()
            if not self._at_hand(call):
                passed.append(call)
                continue
            if not self._fits(call, units):
                continue
            if self.pool.make_room(units) is None:
                blocked = True
            elif not (blocked and self.pool.must_yield(units, now)):
                found = image
                break
        if passed and not blocked and not self.pool.num_loading:
            self._bring(passed[0])
        return found

    def attach(self, image: Image) -> bool:
        """Put the adapters of a chosen image on the device and hold them; False if that failed."""
        units = image.call.units.keys()
        room = self.pool.make_room(units)
        assert room is not None
        try:
            self._place(units, room)
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.exception("the adapters of request %s cannot be used", image.call.request_id)
            self.fail(image.call, as_failure(error))
            return False
        self.pool.acquire(units, _holder(image.call))
        self._running.update(use.name for use in image.call.request.adapters)
        self.dismiss(image.call)
        self._fill()
        return True

    def release(self, image: Image) -> None:
        """Let go of what ``attach`` held."""
        self.pool.release(image.call.units, _holder(image.call))
        self._running -= Counter(use.name for use in image.call.request.adapters)

    def load(self, use: AdapterUse, done: Pinned) -> PinTicket:
        """Ask for an adapter to be brought to the device and kept there; from any thread.

        ``done`` hears of it. Each tenant has a pin of its own, and one however often it asks.
        """
        wish = PinWish(use=use, done=done)
        self.post(partial(self._pin, wish))
        return PinTicket(
            keep=lambda: self.post(partial(self.pool.confirm, wish.unit, use.tenant, wish)),
            give_up=lambda: self.post(partial(self._give_up, wish)),
        )

    def unload(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        """Ask for a tenant's pin to be dropped, with ``evict`` to take the adapter off the device.

        What others have pinned or run with stays there all the same. ``done`` hears of it; from
        any thread.
        """
        self.post(partial(self._unpin, use, evict=evict, done=done))

    def end(self, error: DiptychError) -> None:
        """Answer whoever waits for a pin, and whoever asks for one from now on, with ``error``."""
        self._ended = error
        self._answer(self._pins.refuse_all(), error)

    def refresh(self) -> None:
        """Take the snapshot that other threads read."""
        calls = {call for waiting in self._calls.values() for call in waiting}
        pool = self.pool.stats()
        self.stats = AdapterStats(
            pool=pool,
            in_host=self.loader.in_host().union(pool.in_host),
            running=tuple(sorted(name for name, count in self._running.items() if count > 0)),
            waiting=tuple(sorted(_names(image.call for image in self.queue()))),
            num_waiting=len(calls),
        )

    def _pin(self, wish: PinWish) -> None:
        if self._ended is not None:
            wish.done(self._ended)
            return
        self._pins.ask(wish)
        self._load(wish.unit, (wish.use,))
        self._pin_if_loaded(wish.unit)

    def _give_up(self, wish: PinWish) -> None:
        self._pins.give_up(wish)
        self._drop_unwanted(wish.unit)

    def _unpin(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        unit = unit_of(use)
        try:
            if self._ended is not None:
                raise self._ended
            if evict:
                self.pool.check_unused(unit, use.tenant, use.name)
            if not self._pins.drop(use):
                raise AdapterNotFound(use.name)
        except DiptychError as error:
            done(error)
            return
        if evict and self.pool.is_idle(unit):
            self._evict(unit)
        self.refresh()
        done(None)

    def _want(self, unit: Unit, uses: Uses, call: Call) -> None:
        calls = self._calls.setdefault(unit, {})
        if call not in calls:
            calls[call] = None
            self._tell([call], uses, AdapterState.QUEUED)
        if self.pool.tier(unit) is Tier.ABSENT and self._may_read(unit):
            self._load(unit, uses)

    def _bring(self, call: Call) -> None:
        """Load what ``call`` lacks, room or not: nobody whose turn it was waits for the device."""
        for unit, uses in call.units.items():
            self._load(unit, uses)

    def _fill(self) -> None:
        """Load what calls wait for, the oldest wish first, as far as there is room."""
        for unit in [own for own in self._calls if self.pool.tier(own) is Tier.ABSENT]:
            if self._may_read(unit):
                self._load(unit, self._waiters(unit)[0].units[unit])

    def _may_read(self, unit: Unit) -> bool:
        """Return whether there is room for ``unit``; tokens that nobody uses make way for it.

        One that is in host memory already waits for none of those that are being read.
        """
        if self.pool.num_loading >= _MAX_LOADING and not self.loader.has(unit):
            return False
        for idle in self.pool.idle_with_tokens() if self.loader.is_full() else ():
            self._evict(idle)
            if not self.loader.is_full():
                break
        return not self.loader.is_full()

    def _load(self, unit: Unit, uses: Uses) -> None:
        if self.pool.tier(unit) is not Tier.ABSENT:
            return
        self.pool.begin(unit)
        self.loader.prepare(
            unit,
            uses,
            fetching=lambda: self.post(partial(self._fetching, unit, uses)),
            done=lambda result: self.post(partial(self._arrived, unit, uses, result)),
        )

    def _fetching(self, unit: Unit, uses: Uses) -> None:
        self._tell(self._waiters(unit), uses, AdapterState.FETCHING)

    def _arrived(self, unit: Unit, uses: Uses, result: Prepared | DiptychError) -> None:
        if isinstance(result, DiptychError):
            self._refuse(unit, uses, result)
        else:
            taken = result.size_bytes - result.token_bytes
            self.pool.loaded(
                unit, result.num_lines, size_bytes=taken, token_bytes=result.token_bytes
            )
            self._prepared[unit] = result
            self._tell(self._waiters(unit), uses, AdapterState.READY)
            self._pin_if_loaded(unit)
            self._drop_unwanted(unit)
        self._fill()

    def _refuse(self, unit: Unit, uses: Uses, error: DiptychError) -> None:
        """Fail whoever waits for what could not be loaded from a tenant's store.

        Other tenants have the same bytes in stores of their own: for them it is loaded from there.
        """
        self.pool.forget(unit)
        tenant = uses[0].tenant
        calls = [call for call in self._waiters(unit) if call.units[unit][0].tenant == tenant]
        self._tell(calls, uses, AdapterState.FAILED)
        self._answer(self._pins.refuse(unit, tenant), error)
        for call in calls:
            self.fail(call, error)
        for asked in self._pins.asked(unit)[:1]:
            self._load(unit, (asked,))

    def _pin_if_loaded(self, unit: Unit) -> None:
        if not self._pins.asked(unit) or self.pool.tier(unit) not in {Tier.HOST, Tier.DEVICE}:
            return
        try:
            self._place([unit], self.pool.make_room_now([unit]))
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.warning("an adapter cannot be pinned: %s", error)
            self._answer(self._pins.refuse(unit), as_failure(error))
        else:
            self._answer(self._pins.grant(unit), None)

    def _answer(self, wishes: Iterable[PinWish], error: DiptychError | None) -> None:
        self.refresh()
        for wish in wishes:
            wish.done(error)

    def _at_hand(self, call: Call) -> bool:
        """Return whether all adapters of ``call`` are loaded; one evicted since loads again."""
        for unit, uses in call.units.items():
            if self.pool.tier(unit) is Tier.ABSENT:
                self._want(unit, uses, call)
        tiers = {self.pool.tier(unit) for unit in call.units}
        return tiers <= {Tier.HOST, Tier.DEVICE}

    def _fits(self, call: Call, units: Collection[Unit]) -> bool:
        try:
            self.pool.check_fits(units)
        except DiptychError as error:
            self.fail(call, error)
            return False
        return True

    def _place(self, units: Iterable[Unit], room: Sequence[Unit]) -> None:
        for unit in room:
            self._evict(unit)
        for unit in units:
            if self.pool.tier(unit) is Tier.HOST:
                self.executor.attach(unit, self._prepared[unit])
                self.pool.attached(unit, self.clock())
                self.loader.holds(unit, self._prepared.pop(unit).token_bytes)

    def _evict(self, unit: Unit) -> None:
        self.executor.detach(unit)
        self.pool.evicted(unit)
        self.loader.holds(unit, 0)

    def _drop_unwanted(self, unit: Unit) -> None:
        """Give up host memory of a unit that no call and no pin waits for."""
        wanted = unit in self._calls or self._pins.asked(unit)
        if not wanted and self.pool.tier(unit) is Tier.HOST:
            del self._prepared[unit]
            self.pool.forget(unit)
            self.loader.holds(unit, 0)

    def _waiters(self, unit: Unit) -> list[Call]:
        return list(self._calls.get(unit, ()))

    @staticmethod
    def _tell(calls: Iterable[Call], uses: Uses, state: AdapterState) -> None:
        digests = {use.digest for use in uses}
        for call in calls:
            for own in call.request.adapters:
                if own.digest in digests:
                    call.deliver(AdapterWaited(name=own.name, digest=own.digest, state=state))


def _holder(call: Call) -> Holder:
    """Return as whom ``call`` holds its adapters, which are all one tenant's."""
    tenant = next((use.tenant for use in call.request.adapters), "")
    return Holder(tenant=tenant, request=call)


def _names(calls: Iterable[Call]) -> set[str]:
    return {use.name for call in calls for use in call.request.adapters}

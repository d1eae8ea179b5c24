"""Bringing adapters to the device while other requests go on: pool, loader and executor joined.

A call's adapters are fetched and read by the loader's threads and put on the device by the
engine's thread, between ticks, when it is the call's turn and there is room.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from diptych.errors import AdapterNotFound, DiptychError
from diptych.inference.adapter_pool import AdapterPool, Holder, PoolStats, Tier
from diptych.inference.adapter_units import Unit, unit_of
from diptych.inference.call import Call, Image
from diptych.inference.isolation import as_failure
from diptych.inference.ports import AdapterLoader, Executor, Prepared
from diptych.inference.trajectory import AdapterState, AdapterUse, AdapterWaited

__all__ = ["AdapterStats", "Adapting", "PinTicket", "Pinned"]

_log = logging.getLogger(__name__)

Uses = tuple[AdapterUse, ...]
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
class _Load:
    """One call that asks for a pin."""

    use: AdapterUse
    done: Pinned


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
    _pins: dict[Unit, list[_Load]] = field(default_factory=dict)
    _prepared: dict[Unit, Prepared] = field(default_factory=dict)
    _running: Counter[str] = field(default_factory=Counter)
    _ended: DiptychError | None = None

    def __post_init__(self) -> None:
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
        more images and no others are brought in, so that lines become free.
        """
        blocked, now = False, self.clock()
        for image in heads:
            call, units = image.call, image.call.units.keys()
            if not self._at_hand(call):
                continue
            if not self._fits(call, units):
                continue
            if self.pool.make_room(units) is None:
                blocked = True
            elif not (blocked and self.pool.must_yield(units, now)):
                return image
        return None

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
        return True

    def release(self, image: Image) -> None:
        """Let go of what ``attach`` held."""
        self.pool.release(image.call.units, _holder(image.call))
        self._running -= Counter(use.name for use in image.call.request.adapters)

    def load(self, use: AdapterUse, done: Pinned) -> PinTicket:
        """Ask for an adapter to be brought to the device and kept there; from any thread.

        ``done`` hears of it. Each tenant has a pin of its own, and one however often it asks.
        """
        load = _Load(use=use, done=done)
        self.post(partial(self._pin, load))
        return PinTicket(
            keep=lambda: self.post(partial(self.pool.confirm, unit_of(use), use.tenant, load)),
            give_up=lambda: self.post(partial(self._give_up, load)),
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
        while self._pins:
            _, loads = self._pins.popitem()
            self._answer(loads, error)

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

    def _pin(self, load: _Load) -> None:
        unit = unit_of(load.use)
        if self._ended is not None:
            load.done(self._ended)
            return
        if self.pool.tier(unit) is Tier.DEVICE:
            self.pool.pin(unit, load.use.tenant, load)
            self._answer([load], None)
            return
        self._pins.setdefault(unit, []).append(load)
        self._load(unit, (load.use,))
        self._pin_if_loaded(unit)

    def _give_up(self, load: _Load) -> None:
        unit = unit_of(load.use)
        loads = self._pins.get(unit, [])
        if load not in loads:
            self.pool.withdraw(unit, load.use.tenant, load)
            return
        loads.remove(load)
        if not loads:
            del self._pins[unit]
            self._drop_unwanted(unit)

    def _unpin(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        unit = unit_of(use)
        try:
            if self._ended is not None:
                raise self._ended
            if evict:
                self.pool.check_unused(unit, use.tenant, use.name)
            if not self.pool.unpin(unit, use.tenant):
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
        self._load(unit, uses)

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
        calls = self._waiters(unit)
        if isinstance(result, DiptychError):
            self.pool.forget(unit)
            self._tell(calls, uses, AdapterState.FAILED)
            self._answer(self._pins.pop(unit, []), result)
            for call in calls:
                self.fail(call, result)
            return
        self.pool.loaded(unit, result.num_lines, size_bytes=result.size_bytes)
        self._prepared[unit] = result
        self._tell(calls, uses, AdapterState.READY)
        self._pin_if_loaded(unit)
        self._drop_unwanted(unit)

    def _pin_if_loaded(self, unit: Unit) -> None:
        if unit not in self._pins or self.pool.tier(unit) is not Tier.HOST:
            return
        loads, error = self._pins.pop(unit), None
        try:
            self._place([unit], self.pool.make_room_now([unit]))
            for load in loads:
                self.pool.pin(unit, load.use.tenant, load)
        except Exception as caught:  # noqa: BLE001  logged, fails one request
            _log.warning("an adapter cannot be pinned: %s", caught)
            error = as_failure(caught)
        self._answer(loads, error)

    def _answer(self, loads: Iterable[_Load], error: DiptychError | None) -> None:
        self.refresh()
        for load in loads:
            load.done(error)

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
                del self._prepared[unit]

    def _evict(self, unit: Unit) -> None:
        self.executor.detach(unit)
        self.pool.evicted(unit)

    def _drop_unwanted(self, unit: Unit) -> None:
        """Give up host memory of a unit that no call and no pin waits for."""
        wanted = unit in self._calls or unit in self._pins
        if not wanted and self.pool.tier(unit) is Tier.HOST:
            del self._prepared[unit]
            self.pool.forget(unit)

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

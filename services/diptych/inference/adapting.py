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
from diptych.inference.adapter_pool import AdapterPool, PoolStats, Tier
from diptych.inference.adapter_units import Unit, unit_of, units_of
from diptych.inference.call import Call, Image
from diptych.inference.isolation import as_failure
from diptych.inference.ports import AdapterLoader, Executor, Prepared
from diptych.inference.trajectory import AdapterState, AdapterUse, AdapterWaited

__all__ = ["AdapterStats", "Adapting", "Pinned"]

_log = logging.getLogger(__name__)

_MAX_LOADING: Final = 4
"""Units that are read at the same time, or next; what they take is known when they are."""

Uses = tuple[AdapterUse, ...]
Pinned = Callable[[DiptychError | None], None]
"""Hears that an adapter is pinned, or why not, once ``stats`` say so; from the engine's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStats:
    """What adapters do, for metrics and for placing requests."""

    pool: PoolStats
    running: tuple[str, ...]
    """Names of the adapters that running images hold."""
    waiting: tuple[str, ...]
    """Names of the adapters that calls wait for."""
    num_waiting: int
    """Calls that wait for an adapter."""


@dataclass(slots=True, kw_only=True, eq=False)
class Adapting:
    """The adapters of open calls; owned by the engine thread.

    ``post`` hands a function to the engine's thread; ``fail`` ends a call.
    """

    executor: Executor
    loader: AdapterLoader
    pool: AdapterPool
    post: Callable[[Callable[[], None]], None]
    fail: Callable[[Call, DiptychError], None]
    clock: Callable[[], float]
    stats: AdapterStats = field(init=False)
    """As of the last ``refresh``; any thread may read it."""
    _calls: dict[Unit, dict[Call, None]] = field(default_factory=dict)
    """Open calls that wait for a unit."""
    _pins: dict[Unit, list[Pinned]] = field(default_factory=dict)
    _pinned: dict[Unit, AdapterUse] = field(default_factory=dict)
    """What is pinned or to be, whose files are kept."""
    _prepared: dict[Unit, Prepared] = field(default_factory=dict)
    _running: Counter[str] = field(default_factory=Counter)
    _ended: DiptychError | None = None

    def __post_init__(self) -> None:
        self.refresh()

    def expect(self, call: Call) -> None:
        """Begin to load what ``call`` needs and is not at hand."""
        for unit, uses in units_of(call.request).items():
            if self.pool.tier(unit) is Tier.DEVICE:
                self.pool.hit()
            else:
                self._want(unit, uses, call)

    def dismiss(self, call: Call) -> None:
        """Forget that ``call`` waits; what only it wanted is dropped."""
        for unit in units_of(call.request):
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
        waiting: list[Call] = []
        for image in heads:
            call, units = image.call, units_of(image.call.request).keys()
            if not self._at_hand(call):
                waiting.append(call)
                continue
            if not self._fits(call, units):
                continue
            if self.pool.make_room(units) is None:
                blocked = True
            elif not (blocked and self.pool.must_yield(units, now)):
                return image
        if waiting and not blocked and not self.pool.num_loading:
            self._bring(waiting[0])
        return None

    def attach(self, image: Image) -> bool:
        """Put the adapters of a chosen image on the device and hold them; False if that failed."""
        units = units_of(image.call.request).keys()
        room = self.pool.make_room(units)
        assert room is not None
        try:
            self._place(units, room)
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.exception("the adapters of request %s cannot be used", image.call.request_id)
            self.fail(image.call, as_failure(error))
            return False
        self.pool.acquire(units)
        self._running.update(use.name for use in image.call.request.adapters)
        self.dismiss(image.call)
        self._fill()
        return True

    def release(self, image: Image) -> None:
        """Let go of what ``attach`` held."""
        self.pool.release(units_of(image.call.request))
        self._running -= Counter(use.name for use in image.call.request.adapters)

    def pin(self, use: AdapterUse, done: Pinned) -> None:
        """Bring an adapter to the device and keep it there; ``done`` hears of it."""
        unit = unit_of(use)
        if self._ended is not None:
            done(self._ended)
            return
        self.loader.keep(use)
        self._pinned[unit] = use
        if self.pool.tier(unit) is Tier.DEVICE:
            self.pool.pin(unit)
            self._answer([done], None)
            return
        self._pins.setdefault(unit, []).append(done)
        self._load(unit, (use,))
        self._pin_if_loaded(unit)

    def unpin(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        """Let a pinned adapter go, with ``evict`` at once; ``done`` hears of it."""
        unit = unit_of(use)
        try:
            if self._ended is not None:
                raise self._ended
            if evict:
                self.pool.check_idle(unit, use.name)
            if not self.pool.unpin(unit):
                raise AdapterNotFound(use.name)
        except DiptychError as error:
            done(error)
            return
        self._forget_pin(unit)
        if evict:
            self._evict(unit)
        self._answer([done], None)

    def end(self, error: DiptychError) -> None:
        """Answer whoever waits for a pin, and whoever asks for one from now on, with ``error``."""
        self._ended = error
        while self._pins:
            _, waiting = self._pins.popitem()
            self._answer(waiting, error)

    def refresh(self) -> None:
        """Take the snapshot that other threads read."""
        calls = {call for waiting in self._calls.values() for call in waiting}
        self.stats = AdapterStats(
            pool=self.pool.stats(),
            running=tuple(sorted(name for name, count in self._running.items() if count > 0)),
            waiting=tuple(sorted({use.name for call in calls for use in call.request.adapters})),
            num_waiting=len(calls),
        )

    def _want(self, unit: Unit, uses: Uses, call: Call) -> None:
        calls = self._calls.setdefault(unit, {})
        if call not in calls:
            calls[call] = None
            self._tell([call], uses, AdapterState.QUEUED)
        if self.pool.tier(unit) is Tier.ABSENT and self._has_room():
            self._load(unit, uses)

    def _bring(self, call: Call) -> None:
        """Load what ``call`` lacks, room or not: nothing else can start."""
        for unit, uses in units_of(call.request).items():
            self._load(unit, uses)

    def _fill(self) -> None:
        """Load what calls wait for, the oldest wish first, as far as there is room."""
        for unit, calls in self._calls.items():
            if self.pool.tier(unit) is Tier.ABSENT:
                if not self._has_room():
                    return
                self._load(unit, units_of(next(iter(calls)).request)[unit])

    def _has_room(self) -> bool:
        """Return whether more may be read; tokens that nobody uses make way for it."""
        if self.pool.num_loading >= _MAX_LOADING:
            return False
        for unit in self.pool.idle_with_tokens() if self.loader.is_full() else ():
            self._evict(unit)
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
        calls = self._waiters(unit)
        if isinstance(result, DiptychError):
            self.pool.forget(unit)
            self._tell(calls, uses, AdapterState.FAILED)
            self._forget_pin(unit)
            self._answer(self._pins.pop(unit, []), result)
            for call in calls:
                self.fail(call, result)
            self._fill()
            return
        self.pool.loaded(unit, result.num_lines, token_bytes=result.token_bytes)
        self._prepared[unit] = result
        self._tell(calls, uses, AdapterState.READY)
        self._pin_if_loaded(unit)
        self._drop_unwanted(unit)
        self._fill()

    def _pin_if_loaded(self, unit: Unit) -> None:
        if unit not in self._pins or self.pool.tier(unit) is not Tier.HOST:
            return
        waiting, error = self._pins.pop(unit), None
        try:
            self._place([unit], self.pool.make_room_now([unit]))
            self.pool.pin(unit)
        except Exception as caught:  # noqa: BLE001  logged, fails one request
            _log.warning("an adapter cannot be pinned: %s", caught)
            error = as_failure(caught)
            self._forget_pin(unit)
        self._answer(waiting, error)

    def _forget_pin(self, unit: Unit) -> None:
        if unit in self._pinned:
            self.loader.let_go(self._pinned.pop(unit))

    def _answer(self, waiting: Iterable[Pinned], error: DiptychError | None) -> None:
        self.refresh()
        for done in waiting:
            done(error)

    def _at_hand(self, call: Call) -> bool:
        """Return whether all adapters of ``call`` are loaded; one evicted since loads again."""
        units = units_of(call.request)
        for unit, uses in units.items():
            if self.pool.tier(unit) is Tier.ABSENT:
                self._want(unit, uses, call)
        tiers = {self.pool.tier(unit) for unit in units}
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
        wanted = unit in self._calls or unit in self._pins
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

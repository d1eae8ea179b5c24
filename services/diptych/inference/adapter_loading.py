"""From an adapter's digest to host memory, ready for the device, in threads of its own.

The store's own disk tier lies behind the registry; here is the host tier: what was bound to this
server's networks stays until the bytes it may take are needed for others. Of those bytes the engine
has some: what waits for its turn on the device, and the tokens of what is there.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from diptych.adapters.adapter import Adapter
from diptych.adapters.bundle import from_bytes
from diptych.adapters.registry import Registry
from diptych.digest import Digest
from diptych.errors import DiptychError
from diptych.inference.adapter_units import Unit
from diptych.inference.isolation import as_failure
from diptych.inference.kept_files import KeptFiles
from diptych.inference.ports import Observer, Prepared
from diptych.inference.trajectory import AdapterUse
from diptych.storage.tiers import TierStats

__all__ = ["Bind", "StoreLoader"]

_log = logging.getLogger(__name__)

_NUM_THREADS: Final = 2
Uses = tuple[AdapterUse, ...]

Bind = Callable[[Uses, Sequence[Adapter]], Prepared]
"""Binds the adapters of one unit to this server's networks; from any thread."""


class StoreLoader:
    """Loads adapters from a registry; safe from any thread."""

    def __init__(
        self,
        registry: Registry,
        bind: Bind,
        *,
        host_bytes: int,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._bind = registry, bind
        self._host_bytes = host_bytes
        self._observer, self._clock = observer, clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Unit, Prepared] = OrderedDict()
        self._held: dict[Unit, int] = {}
        """Bytes of each unit that the engine has."""
        self._stats = TierStats()
        """Only what was done; what there is is counted when it is asked for."""
        self._digests: frozenset[str] = frozenset()
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="adapters")
        self._files = KeptFiles(registry.hold, self._pool.submit)

    def prepare(
        self,
        unit: Unit,
        uses: Uses,
        *,
        fetching: Callable[[], None],
        done: Callable[[Prepared | DiptychError], None],
    ) -> None:
        """Queue the adapters of one unit; what is in host memory waits for no fetch of others."""
        kept = self._recall(unit)
        if kept is None:
            self._pool.submit(partial(self._load, unit, uses, fetching, done))
            return
        fetching()
        self._observer.on_adapter_load(seconds=0.0, tier="host", reason=None)
        done(kept)

    def has(self, unit: Unit) -> bool:
        """Return whether a unit is kept in host memory."""
        with self._lock:
            return unit in self._kept

    def in_host(self) -> frozenset[str]:
        """Return the digests of what is kept in host memory."""
        return self._digests

    def holds(self, unit: Unit, size_bytes: int) -> None:
        """Note what of a unit that was handed over the engine still has."""
        with self._lock:
            self._held.pop(unit, None)
            if size_bytes:
                self._held[unit] = size_bytes
            self._trim()

    def is_full(self) -> bool:
        """Return whether what the engine has takes all the bytes there are."""
        with self._lock:
            return sum(self._held.values()) >= self._host_bytes

    def keep(self, use: AdapterUse) -> None:
        """Keep an adapter's file on this machine, so that it is never fetched again."""
        self._files.keep(use)

    def let_go(self, use: AdapterUse) -> None:
        """Stop to ``keep`` it."""
        self._files.let_go(use)

    def stats(self) -> TierStats:
        """Return what lies in host memory, here and in the engine, and what this tier did."""
        with self._lock:
            held = {own.digest for unit in self._held for own in unit.members}
            num_held = len(held | self._digests)
            return replace(self._stats, num_held=num_held, size_bytes=self._size_bytes())

    def stop(self) -> None:
        """Drop what is queued and end the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._files.close()

    def _load(
        self,
        unit: Unit,
        uses: Uses,
        fetching: Callable[[], None],
        done: Callable[[Prepared | DiptychError], None],
    ) -> None:
        fetching()
        began, reason, tier = self._clock(), None, "store"
        result: Prepared | DiptychError
        try:
            tier = self._tier(uses)
            result = self._bind(uses, [self._read(use) for use in uses])
            self._keep(unit, result)
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.warning("adapter %s cannot be loaded: %s", uses[0].name, error)
            result = as_failure(error)
            reason = result.reason
        seconds = self._clock() - began
        self._observer.on_adapter_load(seconds=seconds, tier=tier, reason=reason)
        done(result)

    def _read(self, use: AdapterUse) -> Adapter:
        digest = Digest.parse(use.digest)
        with self._registry.hold(digest, tenant=use.tenant) as path:
            return from_bytes(path, source=use.name)

    def _tier(self, uses: Uses) -> str:
        here = [self._registry.is_here(Digest.parse(use.digest), tenant=use.tenant) for use in uses]
        return "disk" if all(here) else "store"

    def _recall(self, unit: Unit) -> Prepared | None:
        with self._lock:
            stats = self._stats
            if unit not in self._kept:
                self._stats = replace(stats, num_misses=stats.num_misses + 1)
                return None
            self._stats = replace(stats, num_hits=stats.num_hits + 1)
            self._kept.move_to_end(unit)
            self._held[unit] = self._kept[unit].size_bytes
            return self._kept[unit]

    def _keep(self, unit: Unit, prepared: Prepared) -> None:
        """Note that the engine gets a unit, and keep it if there is room."""
        with self._lock:
            self._held[unit] = prepared.size_bytes
            self._kept[unit] = prepared
            self._kept.move_to_end(unit)
            self._trim()

    def _trim(self) -> None:
        """Drop the least recently used units beyond the limit, those first that free memory."""
        excess, num_evictions = self._size_bytes() - self._host_bytes, 0
        for unit, kept in list(self._kept.items()):
            freed = kept.size_bytes - self._held.get(unit, 0)
            if excess > 0 and freed > 0:
                del self._kept[unit]
                excess -= freed
                num_evictions += 1
        num_evictions += self._stats.num_evictions
        self._stats = replace(self._stats, num_evictions=num_evictions)
        self._digests = frozenset(own.digest for unit in self._kept for own in unit.members)

    def _size_bytes(self) -> int:
        """Return what is kept or held; what is both is the same memory."""
        held = sum(size for unit, size in self._held.items() if unit not in self._kept)
        return held + sum(kept.size_bytes for kept in self._kept.values())

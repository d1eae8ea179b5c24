"""Which adapters are on the device, who holds them, and which must go: pure policy.

The device keeps adapters in a fixed number of *lines*, one per rank, unit by unit. Units in use or
pinned are never taken away; of the others the least recently used goes first. Tenants that have the
same adapter share its lines, but each has pins and requests of its own.
"""

import enum
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from diptych.errors import AdapterInUse, AdapterSlotsFull
from diptych.inference.adapter_units import Unit

__all__ = ["AdapterPool", "Holder", "Owned", "PoolStats", "Tier"]

Owned = tuple[str, str]
"""A tenant, and the digest of an adapter that it has."""


class Tier(enum.StrEnum):
    """Where a unit is, from the device's point of view."""

    ABSENT = "absent"
    LOADING = "loading"
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A request whose images run with units."""

    tenant: str
    request: Hashable
    """Tells one request from another while its images run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What the device holds."""

    num_lines: int
    lines_used: int
    size_bytes: int
    """What the units on the device take there."""
    resident: tuple[str, ...]
    """Digests of the units on the device."""
    pins: tuple[Owned, ...]
    in_host: tuple[str, ...]
    """Digests of the units that wait in host memory for their turn on the device."""
    users: Mapping[Owned, int]
    """How many requests of a tenant run with an adapter."""
    num_hits: int
    num_misses: int
    num_evictions: int


@dataclass(slots=True, kw_only=True)
class _Entry:
    tier: Tier
    num_lines: int = 0
    size_bytes: int = 0
    token_bytes: int = 0
    holders: Counter[Holder] = field(default_factory=Counter)
    """Images of each request."""
    pins: dict[str, set[Hashable]] = field(default_factory=dict)
    """By tenant: who asked for its pin and has not heard of it yet, nobody once one has."""
    resident_since: float = 0.0
    used_at: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.holders and not self.pins


class AdapterPool:
    """The lines of one device; owned by the engine thread."""

    def __init__(self, *, num_lines: int, slice_s: float) -> None:
        self._num_lines = num_lines
        self._slice_s = slice_s
        self._entries: dict[Unit, _Entry] = {}
        self._on_device: dict[Unit, _Entry] = {}
        """Those of the entries; hundreds of others may wait."""
        self._uses = 0
        self._hits = self._misses = self._evictions = 0

    def tier(self, unit: Unit) -> Tier:
        """Return where ``unit`` is."""
        entry = self._entries.get(unit)
        return Tier.ABSENT if entry is None else entry.tier

    def begin(self, unit: Unit) -> None:
        """Note that an absent unit is being loaded."""
        assert unit not in self._entries
        self._entries[unit] = _Entry(tier=Tier.LOADING)
        self._misses += 1

    def hit(self) -> None:
        """Note that a request found a unit on the device."""
        self._hits += 1

    @property
    def num_loading(self) -> int:
        """Return how many units are being loaded."""
        return sum(entry.tier is Tier.LOADING for entry in self._entries.values())

    def loaded(
        self, unit: Unit, num_lines: int, *, size_bytes: int = 0, token_bytes: int = 0
    ) -> None:
        """Note that a unit is in host memory and will take ``num_lines``.

        For as long as it is on the device it takes ``size_bytes`` there, and its learned tokens
        ``token_bytes`` of host memory.
        """
        entry = self._entries[unit]
        entry.tier, entry.num_lines = Tier.HOST, num_lines
        entry.size_bytes, entry.token_bytes = size_bytes, token_bytes

    def forget(self, unit: Unit) -> None:
        """Drop a unit that is not on the device: it failed, or nobody waits for it."""
        entry = self._entries.pop(unit)
        assert entry.tier is not Tier.DEVICE

    def check_fits(self, units: Collection[Unit]) -> None:
        """Return if ``units``, all loaded, will fit together once what runs has ended.

        Raises:
            AdapterSlotsFull: They never will, beside what is pinned.
        """
        needed = sum(self._entries[unit].num_lines for unit in units)
        pinned = sum(e.num_lines for u, e in self._on_device.items() if e.pins and u not in units)
        if needed + pinned > self._num_lines:
            raise AdapterSlotsFull(needed_lines=needed, num_lines=self._num_lines)

    def make_room(self, units: Collection[Unit]) -> tuple[Unit, ...] | None:
        """Return what to evict so that ``units``, all loaded, fit; None while they cannot."""
        entries = [self._entries[unit] for unit in units]
        missing = sum(e.num_lines for e in entries if e.tier is not Tier.DEVICE)
        free = self._num_lines - self._lines_used()
        if free >= missing:
            return ()
        evicted: list[Unit] = []
        for unit in self._idle(units):
            if free >= missing:
                break
            free += self._entries[unit].num_lines
            evicted.append(unit)
        return tuple(evicted) if free >= missing else None

    def make_room_now(self, units: Collection[Unit]) -> tuple[Unit, ...]:
        """Return what to evict so that ``units``, all loaded, fit.

        Raises:
            AdapterSlotsFull: They do not, as what is there is in use or pinned.
        """
        room = self.make_room(units)
        if room is None:
            needed = sum(self._entries[unit].num_lines for unit in units)
            raise AdapterSlotsFull(needed_lines=needed, num_lines=self._num_lines)
        return room

    def idle_with_tokens(self) -> tuple[Unit, ...]:
        """Return the units that take host memory and may go, the least recently used first."""
        return tuple(unit for unit in self._idle(()) if self._entries[unit].token_bytes)

    def attached(self, unit: Unit, now: float) -> None:
        """Note that a unit is on the device."""
        entry = self._entries[unit]
        entry.tier, entry.resident_since = Tier.DEVICE, now
        self._on_device[unit] = entry
        self._touch(entry)

    def evicted(self, unit: Unit) -> None:
        """Note that a unit has left the device."""
        entry = self._entries.pop(unit)
        del self._on_device[unit]
        assert not entry.holders
        assert not entry.pins
        self._evictions += 1

    def acquire(self, units: Iterable[Unit], holder: Holder) -> None:
        """Hold ``units``, which are on the device, for one image more of ``holder``."""
        for unit in units:
            self._entries[unit].holders[holder] += 1
            self._touch(self._entries[unit])

    def release(self, units: Iterable[Unit], holder: Holder) -> None:
        """Let go of what ``acquire`` held."""
        for unit in units:
            holders = self._entries[unit].holders
            holders[holder] -= 1
            assert holders[holder] >= 0
            if not holders[holder]:
                del holders[holder]

    def must_yield(self, units: Iterable[Unit], now: float) -> bool:
        """Return whether ``units`` must leave lines to others who wait for some.

        One that has had its slice must, and one that has no lines yet.
        """
        entries = [self._entries[unit] for unit in units]
        return any(
            entry.tier is not Tier.DEVICE or now - entry.resident_since >= self._slice_s
            for entry in entries
            if entry.num_lines and not entry.pins
        )

    def pin(self, unit: Unit, tenant: str, asker: Hashable) -> None:
        """Keep a unit that is on the device there, for a tenant; a second pin changes nothing.

        Until ``confirm`` the pin is there for its askers alone, and goes with the last of them.
        """
        entry = self._entries[unit]
        if tenant not in entry.pins:
            entry.pins[tenant] = {asker}
        elif entry.pins[tenant]:
            entry.pins[tenant].add(asker)

    def confirm(self, unit: Unit, tenant: str, asker: Hashable) -> None:
        """Let the pin that ``asker`` asked for stay until ``unpin``: it was heard of."""
        entry = self._entries.get(unit)
        askers = set() if entry is None else entry.pins.get(tenant, set())
        if asker in askers:
            askers.clear()

    def withdraw(self, unit: Unit, tenant: str, asker: Hashable) -> None:
        """Let a pin go that nobody but ``asker`` asked for; any other stays."""
        entry = self._entries.get(unit)
        askers = set() if entry is None else entry.pins.get(tenant, set())
        if entry is not None and asker in askers:
            askers.remove(asker)
            if not askers:
                del entry.pins[tenant]

    def unpin(self, unit: Unit, tenant: str) -> bool:
        """Drop a tenant's pin; return whether there was one."""
        entry = self._entries.get(unit)
        return entry is not None and entry.pins.pop(tenant, None) is not None

    def is_pinned(self, unit: Unit, tenant: str) -> bool:
        """Return whether a tenant has a pin of ``unit``."""
        entry = self._entries.get(unit)
        return entry is not None and tenant in entry.pins

    def check_unused(self, unit: Unit, tenant: str, name: str) -> None:
        """Return if no request of a tenant holds ``unit``.

        Raises:
            AdapterInUse: Some do.
        """
        entry = self._entries.get(unit)
        held = 0 if entry is None else sum(holder.tenant == tenant for holder in entry.holders)
        if held:
            raise AdapterInUse(adapter=name, num_requests=held)

    def is_idle(self, unit: Unit) -> bool:
        """Return whether a unit on the device may go: nobody holds it or has it pinned."""
        return self._on_device[unit].is_idle

    def stats(self) -> PoolStats:
        """Return a snapshot."""
        resident = self._on_device
        in_host = [unit for unit, e in self._entries.items() if e.tier is Tier.HOST]
        users: Counter[Owned] = Counter()
        for unit in resident:
            for holder in resident[unit].holders:
                users.update((holder.tenant, digest) for digest in _digests(unit))
        return PoolStats(
            num_lines=self._num_lines,
            lines_used=self._lines_used(),
            size_bytes=sum(entry.size_bytes for entry in resident.values()),
            resident=tuple(digest for unit in resident for digest in _digests(unit)),
            pins=tuple(
                (tenant, digest)
                for unit in resident
                for tenant in resident[unit].pins
                for digest in _digests(unit)
            ),
            in_host=tuple(digest for unit in in_host for digest in _digests(unit)),
            users=dict(users),
            num_hits=self._hits,
            num_misses=self._misses,
            num_evictions=self._evictions,
        )

    def _lines_used(self) -> int:
        return sum(entry.num_lines for entry in self._on_device.values())

    def _idle(self, keep: Collection[Unit]) -> list[Unit]:
        """Return the units that may go, the least recently used first."""
        idle = [(e.used_at, u) for u, e in self._on_device.items() if e.is_idle and u not in keep]
        return [unit for _, unit in sorted(idle, key=lambda item: item[0])]

    def _touch(self, entry: _Entry) -> None:
        self._uses += 1
        entry.used_at = self._uses


def _digests(unit: Unit) -> list[str]:
    return [member.digest for member in unit.members]

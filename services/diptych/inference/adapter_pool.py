"""Which adapters are on the device, who holds them, and which must go: pure policy.

The device keeps adapters in a fixed number of *lines*, one per rank, unit by unit. Units in use or
pinned are never taken away; of the others the least recently used goes first.
"""

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from diptych.errors import AdapterInUse, AdapterSlotsFull
from diptych.inference.adapter_units import Unit

__all__ = ["AdapterPool", "PoolStats", "Tier"]


class Tier(enum.StrEnum):
    """Where a unit is, from the device's point of view."""

    ABSENT = "absent"
    LOADING = "loading"
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What the device holds."""

    num_lines: int
    lines_used: int
    resident: tuple[str, ...]
    """Digests of the units on the device."""
    pinned: tuple[str, ...]
    in_host: tuple[str, ...]
    """Digests of the units in host memory that wait for their turn on the device."""
    users: tuple[tuple[str, int], ...]
    """Digests of the units that images run with, and how many images do."""
    num_hits: int
    num_misses: int
    num_evictions: int


@dataclass(slots=True, kw_only=True)
class _Entry:
    tier: Tier
    num_lines: int = 0
    token_bytes: int = 0
    num_users: int = 0
    pinned: bool = False
    resident_since: float = 0.0
    used_at: int = 0


class AdapterPool:
    """The lines of one device; owned by the engine thread."""

    def __init__(self, *, num_lines: int, slice_s: float) -> None:
        self._num_lines = num_lines
        self._slice_s = slice_s
        self._entries: dict[Unit, _Entry] = {}
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

    def loaded(self, unit: Unit, num_lines: int, *, token_bytes: int = 0) -> None:
        """Note that a unit is in host memory and will take ``num_lines``.

        Its learned tokens take ``token_bytes`` of host memory for as long as it is on the device.
        """
        entry = self._entries[unit]
        entry.tier, entry.num_lines, entry.token_bytes = Tier.HOST, num_lines, token_bytes

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
        pinned = sum(e.num_lines for u, e in self._entries.items() if e.pinned and u not in units)
        if needed + pinned > self._num_lines:
            raise AdapterSlotsFull(needed_lines=needed, num_lines=self._num_lines)

    def make_room(self, units: Collection[Unit]) -> tuple[Unit, ...] | None:
        """Return what to evict so that ``units``, all loaded, fit; None while they cannot."""
        entries = [self._entries[unit] for unit in units]
        missing = sum(e.num_lines for e in entries if e.tier is not Tier.DEVICE)
        free = self._num_lines - self._lines_used()
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
        self._touch(entry)

    def evicted(self, unit: Unit) -> None:
        """Note that a unit has left the device."""
        entry = self._entries.pop(unit)
        assert not entry.num_users
        assert not entry.pinned
        self._evictions += 1

    def acquire(self, units: Iterable[Unit]) -> None:
        """Hold ``units``, which are on the device, for one image more."""
        for unit in units:
            self._entries[unit].num_users += 1
            self._touch(self._entries[unit])

    def release(self, units: Iterable[Unit]) -> None:
        """Let go of what ``acquire`` held."""
        for unit in units:
            self._entries[unit].num_users -= 1
            assert self._entries[unit].num_users >= 0

    def must_yield(self, units: Iterable[Unit], now: float) -> bool:
        """Return whether ``units`` must leave lines to others who wait for some.

        One that has had its slice must, and one that has no lines yet.
        """
        entries = [self._entries[unit] for unit in units]
        return any(
            entry.tier is not Tier.DEVICE or now - entry.resident_since >= self._slice_s
            for entry in entries
            if entry.num_lines and not entry.pinned
        )

    def pin(self, unit: Unit) -> None:
        """Keep a unit that is on the device there."""
        self._entries[unit].pinned = True

    def unpin(self, unit: Unit) -> bool:
        """Let a pinned unit go when room is needed; return whether it was pinned."""
        entry = self._entries.get(unit)
        was_pinned = entry is not None and entry.pinned
        if entry is not None:
            entry.pinned = False
        return was_pinned

    def check_idle(self, unit: Unit, name: str) -> None:
        """Return if no image holds ``unit``.

        Raises:
            AdapterInUse: One does.
        """
        entry = self._entries.get(unit)
        if entry is not None and entry.num_users:
            raise AdapterInUse(adapter=name, num_requests=entry.num_users)

    def num_users(self, digest: str) -> int:
        """Return how many images run with the adapter of that digest."""
        found = [entry for unit, entry in self._entries.items() if digest in _digests(unit)]
        return sum(entry.num_users for entry in found)

    def stats(self) -> PoolStats:
        """Return a snapshot."""
        resident = [unit for unit, e in self._entries.items() if e.tier is Tier.DEVICE]
        in_host = [unit for unit, e in self._entries.items() if e.tier is Tier.HOST]
        users: dict[str, int] = {}
        for unit in resident:
            for digest in _digests(unit) if self._entries[unit].num_users else ():
                users[digest] = users.get(digest, 0) + self._entries[unit].num_users
        return PoolStats(
            num_lines=self._num_lines,
            lines_used=self._lines_used(),
            resident=tuple(digest for unit in resident for digest in _digests(unit)),
            pinned=tuple(
                digest
                for unit in resident
                if self._entries[unit].pinned
                for digest in _digests(unit)
            ),
            in_host=tuple(digest for unit in in_host for digest in _digests(unit)),
            users=tuple(users.items()),
            num_hits=self._hits,
            num_misses=self._misses,
            num_evictions=self._evictions,
        )

    def _lines_used(self) -> int:
        entries = self._entries.values()
        return sum(entry.num_lines for entry in entries if entry.tier is Tier.DEVICE)

    def _idle(self, keep: Collection[Unit]) -> list[Unit]:
        """Return the units that may go, the least recently used first."""
        idle = [
            unit
            for unit, entry in self._entries.items()
            if entry.tier is Tier.DEVICE
            and not entry.num_users
            and not entry.pinned
            and unit not in keep
        ]
        return sorted(idle, key=lambda unit: self._entries[unit].used_at)

    def _touch(self, entry: _Entry) -> None:
        self._uses += 1
        entry.used_at = self._uses


def _digests(unit: Unit) -> list[str]:
    return [member.digest for member in unit.members]

"""Keeping embeddings of SDXL's size: our packs against one file an entry, and against the disk.

Entries are written and read in slices, every way in turn, so that all meet the same weather.
Reads are cold: what the kernel holds of the files is dropped first. Ours sync what they write.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diptych.bench.cache_ways import FileWay, GzipWay, PackWay, Values, Way, as_entry, made_values
from diptych.digest import Digest
from diptych.embeddings.memory import MemoryTier
from diptych.embeddings.tiers import TieredStore
from diptych.storage.local import LocalBlobs

__all__ = [
    "MAX_HIT_S",
    "MIN_DISK_SHARE",
    "MIN_READ_RATIO",
    "MIN_WRITE_RATIO",
    "CacheStorage",
    "WaySpeed",
    "measure_storage",
]

MIN_READ_RATIO = 5.0
MIN_WRITE_RATIO = 3.0
MIN_DISK_SHARE = 0.8
MAX_HIT_S = 0.0003
_NUM_HITS = 2000
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class WaySpeed:
    """What one way took for each slice, and what it left on the disk."""

    name: str
    write_s: tuple[float, ...]
    read_s: tuple[float, ...]
    disk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStorage:
    """SimpleTuner's way, safetensors files and packs, and a plain file of the same bytes."""

    num_entries: int
    slice_entries: int
    slice_bytes: int
    theirs: WaySpeed
    files: WaySpeed
    ours: WaySpeed
    disk_read_s: tuple[float, ...]
    """A plain sequential read of as many bytes."""
    hit_s: float
    """A hit in memory, median."""

    @property
    def write_ratio(self) -> float:
        """How much quicker ours are written than theirs; the median of slices."""
        return _ratio(self.theirs.write_s, self.ours.write_s)

    @property
    def read_ratio(self) -> float:
        """How much quicker ours are read than theirs; the median of slices."""
        return _ratio(self.theirs.read_s, self.ours.read_s)

    @property
    def disk_share(self) -> float:
        """Our speed of reading, as a share of the disk's own; the median of slices."""
        return _ratio(self.disk_read_s, self.ours.read_s)

    @property
    def holds(self) -> bool:
        """Whether all that is promised was measured."""
        return (
            self.write_ratio >= MIN_WRITE_RATIO
            and self.read_ratio >= MIN_READ_RATIO
            and self.disk_share >= MIN_DISK_SHARE
            and self.hit_s <= MAX_HIT_S
        )


def measure_storage(
    folder: Path,
    *,
    num_entries: int,
    num_slices: int,
    progress: Callable[[], None] = lambda: None,
) -> CacheStorage:
    """Write and read ``num_entries`` in an empty ``folder`` with room for four times their size."""
    ways: list[Way] = [
        GzipWay(folder / "gzip"),
        FileWay(folder / "files"),
        PackWay(LocalBlobs(folder / "packs")),
    ]
    slices = [
        made_values(num_entries // num_slices, seed=number) for number in range(1, num_slices + 1)
    ]
    plain = [folder / "plain" / str(number) for number in range(num_slices)]
    (folder / "plain").mkdir()
    write_s: dict[str, list[float]] = {way.name: [] for way in ways}
    read_s: dict[str, list[float]] = {way.name: [] for way in ways}
    disk_read_s = []
    for entries, path in zip(slices, plain, strict=True):
        _write_plain(path, entries)
        for way in ways:
            os.sync()
            write_s[way.name].append(_timed(lambda way=way, entries=entries: way.write(entries)))  # type: ignore[misc]
            progress()
    for entries, path in zip(slices, plain, strict=True):
        keys = [key for key, _ in entries]
        drop_pages(folder)
        disk_read_s.append(_timed(lambda path=path: _read_plain(path)))  # type: ignore[misc]
        for way in ways:
            drop_pages(folder)
            read_s[way.name].append(_timed(lambda way=way, keys=keys: _read_all(way, keys)))  # type: ignore[misc]
            progress()
    speeds = [
        WaySpeed(
            name=way.name,
            write_s=tuple(write_s[way.name]),
            read_s=tuple(read_s[way.name]),
            disk_bytes=_size_bytes(folder / name),
        )
        for way, name in zip(ways, ("gzip", "files", "packs"), strict=True)
    ]
    return CacheStorage(
        num_entries=len(slices) * len(slices[0]),
        slice_entries=len(slices[0]),
        slice_bytes=plain[0].stat().st_size,
        theirs=speeds[0],
        files=speeds[1],
        ours=speeds[2],
        disk_read_s=tuple(disk_read_s),
        hit_s=_hit_s(slices[0]),
    )


def drop_pages(folder: Path) -> None:
    """Have the kernel forget what it holds of the files below ``folder``."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    with suppress(OSError):  # names of files are dropped too, where we may
        Path("/proc/sys/vm/drop_caches").write_text("3")


def _hit_s(entries: Sequence[tuple[Digest, Values]]) -> float:
    store = TieredStore(memory=MemoryTier(2**30))
    keys = [key for key, _ in entries[:_NUM_HITS]]
    for key, values in entries[: len(keys)]:
        store.put(key, as_entry(values))
    found = [_timed(lambda key=key: store.get(key, kind="prompt")) for key in keys]  # type: ignore[misc]
    return statistics.median(found)


def _read_all(way: Way, keys: Sequence[Digest]) -> None:
    num_read = sum(1 for _ in way.read(keys))
    assert num_read == len(keys), f"{way.name} read {num_read} of {len(keys)}"


def _write_plain(path: Path, entries: Sequence[tuple[Digest, Values]]) -> None:
    with path.open("wb") as stream:
        for _, values in entries:
            stream.write(as_entry(values))


def _read_plain(path: Path) -> None:
    piece = bytearray(_PIECE_BYTES)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(piece):
            pass


def _size_bytes(folder: Path) -> int:
    """Return how many bytes of the disk the files below ``folder`` take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _timed(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))

"""Verified files on this machine's disk for blobs that lie elsewhere, bounded in bytes.

Many processes may share one folder. A file in use is locked (shared) by whoever holds it, and the
kernel drops the lock with the process; what cannot be locked alone is not evicted. A file being
fetched has its full size from its first moment, so that its place is taken.
"""

import fcntl
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from diptych.digest import Digest
from diptych.errors import StoreFull
from diptych.storage.blobs import BlobStore
from diptych.storage.cas import ContentStore
from diptych.storage.partial import room, sweep_partials, write_whole

__all__ = ["DirectFiles", "DiskTier", "HeldFiles", "TierStats", "open_files"]

_log = logging.getLogger(__name__)

_PARTIALS: Final = ".partial"
_LOCK: Final = ".lock"
_NUM_TRIES: Final = 4
_MAX_REMEMBERED: Final = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """What a tier did since this process opened it, and what lies in it now."""

    num_hits: int = 0
    num_misses: int = 0
    num_evictions: int = 0
    num_held: int = 0
    """Things that lie in it."""
    size_bytes: int = 0


class HeldFiles(Protocol):
    """Files with the bytes of digests, that stay as they are while they are held."""

    def hold(self, digest: Digest, source: ContentStore) -> AbstractContextManager[Path]:
        """Return a context in which a file has the bytes of ``digest``; fetch it if need be.

        Raises:
            BlobNotFound: ``source`` has no such blob.
            BlobCorrupt: What ``source`` has are other bytes.
            StoreFull: It does not fit beside what others hold.
            SourceUnavailable: ``source`` does not answer.
        """

    def has(self, digest: Digest, source: ContentStore) -> bool:
        """Tell whether a file is here, so that holding it fetches nothing."""

    def stats(self) -> TierStats:
        """Return what was done and what is here."""


def open_files(blobs: BlobStore, *, cache_dir: Path, limit_bytes: int) -> HeldFiles:
    """Return the files of ``blobs`` themselves if it keeps any here, else a cache of them."""
    if blobs.local_path("probe") is not None:
        return DirectFiles()
    return DiskTier(cache_dir, limit_bytes=limit_bytes)


class DirectFiles:
    """The files of a local blob store, checked when this process first holds them."""

    def __init__(self) -> None:
        self._checked = _Checked()

    @contextmanager
    def hold(self, digest: Digest, source: ContentStore) -> Iterator[Path]:
        """Yield the store's own file; one that is removed meanwhile can be read once opened."""
        path = source.blobs.local_path(source.key(digest))
        assert path is not None
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise source.missing(digest) from error
        try:
            is_right = self._checked.is_right(descriptor, digest)
        finally:
            os.close(descriptor)
        if not is_right:
            source.verify(digest)
        yield path

    def has(self, digest: Digest, source: ContentStore) -> bool:
        """Tell whether the store has it."""
        return source.size_bytes(digest) is not None

    def stats(self) -> TierStats:
        """Return zeros: nothing is fetched or evicted."""
        return TierStats()


class DiskTier:
    """A folder of at most ``limit_bytes``; what was held longest ago goes first."""

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root = root.absolute()
        self._limit_bytes = limit_bytes
        self._checked = _Checked()
        self._lock = threading.Lock()
        self._flights: WeakValueDictionary[Digest, threading.Lock] = WeakValueDictionary()
        self._stats = TierStats()
        self._root.mkdir(parents=True, exist_ok=True)
        sweep_partials(self._root / _PARTIALS)

    @contextmanager
    def hold(self, digest: Digest, source: ContentStore) -> Iterator[Path]:
        """Yield the file, locked against eviction by any process until the context ends."""
        descriptor = self._open(digest, source)
        try:
            yield self._root / digest.hex
        finally:
            os.close(descriptor)

    def has(self, digest: Digest, source: ContentStore) -> bool:
        """Tell whether the file is here now."""
        return (self._root / digest.hex).exists()

    def stats(self) -> TierStats:
        """Return the counts of this process and the bytes of all."""
        entries = self._entries()
        num_held = sum(path.parent == self._root for _, _, path in entries)
        with self._lock:
            size_bytes = sum(size for _, size, _ in entries)
            return replace(self._stats, num_held=num_held, size_bytes=size_bytes)

    def _open(self, digest: Digest, source: ContentStore) -> int:
        """Return a descriptor of the right bytes, share-locked."""
        with self._lock:
            flight = self._flights.setdefault(digest, threading.Lock())
        is_hit = True
        for _ in range(_NUM_TRIES):
            with flight:
                descriptor = self._open_shared(digest)
                if descriptor is not None:
                    if self._checked.is_right(descriptor, digest):
                        self._touch(descriptor, is_hit=is_hit)
                        return descriptor
                    os.close(descriptor)
                    _log.warning("file of blob %s in %s was damaged", digest, self._root)
                    (self._root / digest.hex).unlink(missing_ok=True)
                is_hit = False
                self._fetch(digest, source)
        raise StoreFull(location=str(self._root), size_bytes=source.size_bytes(digest) or 0)

    def _open_shared(self, digest: Digest) -> int | None:
        try:
            descriptor = os.open(self._root / digest.hex, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # evicted between its opening and its lock
        return None

    def _touch(self, descriptor: int, *, is_hit: bool) -> None:
        """Make the file the last that goes; the time of access is ours, whatever the mount does."""
        changed_ns = os.fstat(descriptor).st_mtime_ns
        os.utime(descriptor, ns=(time.time_ns(), changed_ns))
        with self._lock:
            self._stats = replace(
                self._stats,
                num_hits=self._stats.num_hits + is_hit,
                num_misses=self._stats.num_misses + (not is_hit),
            )

    def _fetch(self, digest: Digest, source: ContentStore) -> None:
        size_bytes = source.size_bytes(digest)
        if size_bytes is None:
            raise source.missing(digest)
        if size_bytes > self._limit_bytes:
            raise StoreFull(location=str(self._root), size_bytes=size_bytes)
        try:
            self._write(digest, source, size_bytes)
        except StoreFull:
            with self._alone():
                if self._evict(size_bytes) < size_bytes:
                    raise
            self._write(digest, source, size_bytes)
        self._checked.add(digest, (self._root / digest.hex))

    def _write(self, digest: Digest, source: ContentStore, size_bytes: int) -> None:
        with ExitStack() as until_reserved:
            until_reserved.enter_context(self._alone())
            taken = sum(size for _, size, _ in self._entries())
            missing_bytes = taken + size_bytes - self._limit_bytes
            if self._evict(missing_bytes) < missing_bytes:
                raise StoreFull(location=str(self._root), size_bytes=size_bytes)

            def pieces() -> Iterator[bytes]:
                until_reserved.close()  # asked for the first piece only once the place is taken
                yield from source.read(digest)

            final, partials = self._root / digest.hex, self._root / _PARTIALS
            write_whole(
                final,
                pieces(),
                partials=partials,
                reserve_bytes=size_bytes,
                is_lasting=False,
            )

    def _evict(self, wanted_bytes: int) -> int:
        """Remove files that nobody holds until ``wanted_bytes`` are free; return how many were."""
        freed_bytes = 0
        for _, size, path in sorted(self._entries()):
            if freed_bytes >= wanted_bytes:
                break
            if path.parent == self._root and _remove_unheld(path):
                freed_bytes += size
                with self._lock:
                    self._stats = replace(self._stats, num_evictions=self._stats.num_evictions + 1)
        return freed_bytes

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Return when each file was last held, its size and its path; partial files too."""
        found = []
        for folder in (self._root, self._root / _PARTIALS):
            for path in folder.iterdir() if folder.is_dir() else ():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode) and path.name != _LOCK:
                        found.append((status.st_atime_ns, status.st_size, path))
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other process and thread from taking places."""
        with room(str(self._root), 0):
            descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class _Checked:
    """Which files were seen to have their digest; one that changed since is checked again."""

    def __init__(self) -> None:
        self._signatures: dict[Digest, tuple[int, int, int]] = {}

    def is_right(self, descriptor: int, digest: Digest) -> bool:
        signature = _signature(os.fstat(descriptor))
        if self._signatures.get(digest) == signature:
            return True
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            stream.seek(0)
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest.hex:
                return False
        self._remember(digest, signature)
        return True

    def add(self, digest: Digest, path: Path) -> None:
        with suppress(FileNotFoundError):
            self._remember(digest, _signature(path.stat()))

    def _remember(self, digest: Digest, signature: tuple[int, int, int]) -> None:
        if len(self._signatures) >= _MAX_REMEMBERED:
            self._signatures.clear()
        self._signatures[digest] = signature


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remove_unheld(path: Path) -> bool:
    with suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
        return True
    return False

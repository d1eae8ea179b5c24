"""Files that appear whole or not at all, whatever is killed while they are written.

A partial file is locked by the process that writes it. The kernel drops the lock with the process,
so a file without a lock is one that nobody will finish, and can go.
"""

import errno
import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from diptych.errors import StoreFull

__all__ = ["room", "sweep_partials", "sync_folder", "write_whole"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = 0o444


def write_whole(
    final: Path,
    pieces: Iterable[bytes],
    *,
    partials: Path,
    reserve_bytes: int = 0,
    is_lasting: bool = True,
) -> int:
    """Write ``pieces`` to ``final``, replacing what is there, and return how many bytes they are.

    The bytes reach the disk before the name does, unless a power cut may garble them
    (``is_lasting`` false: a cache that checks them). ``partials`` is a folder inside the store's
    own and of its file system; ``reserve_bytes`` are claimed there at once, so that a disk too
    full says so early.

    Raises:
        StoreFull: The disk, a quota or a limit of this process leaves no room.
    """
    location = str(partials.parent)
    with room(location, reserve_bytes), _partial_file(partials) as (path, descriptor):
        if reserve_bytes:
            os.posix_fallocate(descriptor, 0, reserve_bytes)
        size_bytes = 0
        for piece in pieces:
            with room(location, size_bytes + len(piece)):
                size_bytes += _write(descriptor, piece)
        os.ftruncate(descriptor, size_bytes)
        os.fchmod(descriptor, _READ_ONLY)
        with room(location, size_bytes):
            if is_lasting:
                os.fsync(descriptor)
            _make_folder(final.parent)
            path.replace(final)
            if is_lasting:
                sync_folder(final.parent)
    return size_bytes


@contextmanager
def room(location: str, size_bytes: int) -> Iterator[None]:
    """Turn a full disk into this package's error.

    Raises:
        StoreFull: The disk, a quota or a limit of this process leaves no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(location=location, size_bytes=size_bytes) from error
        raise


def sweep_partials(partials: Path) -> int:
    """Remove the files that no living process writes and return how many there were.

    None goes from a disk that cannot be written to.
    """
    num_removed = 0
    for path in partials.iterdir() if partials.is_dir() else ():
        with suppress(FileNotFoundError, BlockingIOError, PermissionError), _unless_read_only():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                num_removed += 1
            finally:
                os.close(descriptor)
    return num_removed


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _partial_file(partials: Path) -> Iterator[tuple[Path, int]]:
    """Open a new locked file; gone afterwards unless it was renamed."""
    _make_folder(partials)
    while True:
        path = partials / uuid.uuid4().hex
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                continue  # swept between its creation and its lock
            yield path, descriptor
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)
        return


@contextmanager
def _unless_read_only() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:
            raise


def _write(descriptor: int, piece: bytes) -> int:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(piece)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)

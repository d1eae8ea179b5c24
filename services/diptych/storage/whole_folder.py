"""Folders that appear whole or not at all, whatever is killed while they are filled.

As in ``partial``, what is being filled is locked by its process, and the kernel drops the lock
with the process: a partial folder without a lock is one that nobody will finish.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.errors import NameTaken
from diptych.storage.partial import room, sync_folder

__all__ = ["whole_folder"]


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder beside ``final`` that takes its name when the block ends well.

    Otherwise it goes with all it holds, as does what killed processes left there. Files must have
    reached the disk when the block ends; their names are brought there.

    Raises:
        NameTaken: ``final`` is there already.
        StoreFull: The disk, a quota or a limit of this process leaves no room.
    """
    if final.exists() or final.is_symlink():
        raise NameTaken(name=str(final), actual="something")
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final)
    with room(str(final.parent), 0):
        partial, descriptor = _locked_folder(final)
    try:
        yield partial
        for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            sync_folder(folder)
        _rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def _rename(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise NameTaken(name=str(final), actual="something") from error
        raise
    sync_folder(final.parent)


def _locked_folder(final: Path) -> tuple[Path, int]:
    while True:
        path = final.parent / f".{final.name}.{uuid.uuid4().hex}.partial"
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.is_dir():
            return path, descriptor
        os.close(descriptor)  # swept between its creation and its lock


def _sweep(final: Path) -> None:
    for path in final.parent.glob(f".{final.name}.*.partial"):
        with suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)

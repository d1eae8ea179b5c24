"""The owner's side of an attempt's folder: task and wishes in, outcome and signs of life out."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from diptych.errors import StoreFull
from diptych.storage.partial import write_whole
from diptych.training.task import AttemptFolder, Outcome, Wish, WorkerTask

__all__ = [
    "Heartbeat",
    "earlier_attempts",
    "is_worker_gone",
    "job_dir",
    "read_outcome",
    "write_task",
    "write_wish",
]


def job_dir(home: Path, *, tenant: str, job_id: str) -> Path:
    """Return the folder of a job's files."""
    return home / "training" / "jobs" / tenant / job_id


def write_task(folder: AttemptFolder, task: WorkerTask) -> None:
    """Make the attempt's folder and write its task.

    Raises:
        StoreFull: There is no room.
    """
    _write(folder, folder.task, task.to_json())


def write_wish(folder: AttemptFolder, wish: Wish) -> None:
    """Tell the worker what is wished; raises as ``write_task`` does."""
    _write(folder, folder.wish, wish)


def read_outcome(folder: AttemptFolder) -> Outcome | None:
    """Return how the worker says that it ended, None if it did not come to that."""
    try:
        return Outcome.from_json(folder.outcome.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None


def earlier_attempts(folder: AttemptFolder) -> Iterator[AttemptFolder]:
    """Yield the attempts before ``folder``'s whose files are here, the first one first."""
    attempts = folder.path.parent
    names = (path.name for path in attempts.iterdir()) if attempts.is_dir() else ()
    for number in sorted(int(name) for name in names if re.fullmatch(r"[0-9]+", name)):
        if number < folder.attempt:
            yield AttemptFolder(job_dir=folder.job_dir, attempt=number)


def is_worker_gone(folder: AttemptFolder) -> bool:
    """Return whether no worker of the job lives on this file system."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True


class Heartbeat:
    """Since when a worker or its mate gives no sign of life, by the owner's clock.

    Owned by one thread. What counts is that a file changes, not what its time says: other machines
    set that clock. A mate that has ended has removed its file.
    """

    def __init__(self, folder: AttemptFolder, *, now: float) -> None:
        """Begin to wait for the first sign."""
        self._folder = folder
        self._seen: dict[str, tuple[int, float]] = {}
        self._silent_since = now

    def silent_s(self, now: float) -> float:
        """Look, and return how long the more silent of the two has given no sign."""
        found: dict[str, tuple[int, float]] = {}
        for path in self._folder.path.glob(f"{self._folder.heartbeat.name}*"):
            with contextlib.suppress(OSError):
                changed = path.stat().st_mtime_ns
                before, since = self._seen.get(path.name, (None, now))
                found[path.name] = changed, since if changed == before else now
        if found:
            self._seen = found
            self._silent_since = min(since for _, since in found.values())
        return now - self._silent_since


def _write(folder: AttemptFolder, path: Path, text: str) -> None:
    pieces: Iterable[bytes] = (text.encode(),)
    try:
        write_whole(path, pieces, partials=folder.job_dir / ".partial")
    except OSError as error:
        raise StoreFull(location=str(folder.job_dir), size_bytes=len(text)) from error

"""The worker's side of an attempt's folder: events, signs of life, the outcome, and wishes."""

import fcntl
import math
import os
import threading
from collections.abc import Mapping
from typing import BinaryIO, Final, get_args

from diptych.storage.partial import room, write_whole
from diptych.training.events import EventKind, Told
from diptych.training.tailing import event_line
from diptych.training.task import AttemptFolder, Outcome, Wish

__all__ = ["Reporter", "Silence"]

_PARTIALS: Final = ".partial"


class Reporter:
    """Tells a job's owner what happens, from any thread; a worker's mate has one of its own."""

    def __init__(self, folder: AttemptFolder) -> None:
        """Report in ``folder``, which is there."""
        self._folder = folder
        self._lock = threading.Lock()

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        """Append an event as one line; a line counts once its end is there.

        Numbers that JSON has no form of become None.

        Raises:
            StoreFull: There is no room.
        """
        line = event_line(Told(kind=kind, data={key: _plain(held) for key, held in data.items()}))
        place = room(str(self._folder.path), len(line))
        with self._lock, place, self._folder.events.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"" if _ends_a_line(file) else b"\n")
            file.write(line)
        self.beat()

    def warn(self, reason: str, message: str) -> None:
        """Tell a warning; raises as ``tell`` does."""
        self.tell(EventKind.WARNING, {"reason": reason, "message": message})

    def beat(self) -> None:
        """Show that the worker lives."""
        self._folder.heartbeat.touch()

    def wish(self) -> Wish | None:
        """Return what the owner wants, None where that is to go on."""
        try:
            text = self._folder.wish.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return next((wish for wish in get_args(Wish) if wish == text), None)

    def end(self, outcome: Outcome) -> None:
        """Write how the worker ends: whole, and last of all.

        Raises:
            StoreFull: There is no room.
        """
        text = outcome.to_json().encode()
        partials = self._folder.path / _PARTIALS
        write_whole(self._folder.outcome, [text], partials=partials)
        if self._folder.mate is not None:  # its worker goes on, and this silence means nothing
            self._folder.heartbeat.unlink(missing_ok=True)


class Silence:
    """What the other processes of one worker have in a reporter's place."""

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        """Say nothing."""

    def warn(self, reason: str, message: str) -> None:
        """Say nothing."""

    def beat(self) -> None:
        """Do nothing."""

    def wish(self) -> Wish | None:
        """Return None: one process asks."""
        return None


def _ends_a_line(file: BinaryIO) -> bool:
    """Return whether a new line begins here; not where another writer was killed in one."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return value

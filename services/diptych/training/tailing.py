"""What a worker tells, read from its file as it grows."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diptych.training.events import EventKind, Told

__all__ = ["EventTail", "event_line", "log_tail"]

MAX_BYTES: Final = 1 << 20
"""Read at once, and more than any line has."""
TAIL_BYTES: Final = 2048
TAIL_CHARACTERS: Final = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where reading goes on: at which byte, after which line."""

    offset: int = 0
    number: int = 0


class EventTail:
    """Reads one file of events; owned by one thread.

    A line counts once its end is there; a number that is none, as of a loss, is None. What ``read``
    gave is given again until ``done``, so that nothing is lost when it could not be passed on.
    """

    def __init__(self, path: Path) -> None:
        """Begin at the first line; the file need not be there yet."""
        self._path = path
        self._done = self._read = _Place()

    def read(self) -> list[tuple[int, Told]]:
        """Return the next lines, numbered from 1; empty when there is no whole one."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._done.offset)
                data = file.read(MAX_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        self._read = _Place(self._done.offset + len(whole), self._done.number + len(lines))
        numbered = enumerate(lines, start=self._done.number + 1)
        return [(number, told) for number, line in numbered if (told := self._told(line, number))]

    def done(self) -> None:
        """Go on after what ``read`` gave last."""
        self._done = self._read

    @property
    def is_at_end(self) -> bool:
        """Whether the last ``read`` found nothing new."""
        return self._read == self._done

    def _told(self, line: bytes, number: int) -> Told | None:
        try:
            plain = json.loads(line, parse_constant=lambda _: None)
            return Told(kind=EventKind(plain["kind"]), data=dict(plain["data"]))
        except (ValueError, TypeError, KeyError):
            _log.warning("event that is none", extra={"path": str(self._path), "line": number})
            return None


def event_line(told: Told) -> bytes:
    """Return the line that ``EventTail`` reads as ``told``."""
    plain = {"kind": told.kind.value, "data": dict(told.data)}
    return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def log_tail(path: Path) -> str:
    """Return the end of a worker's log on one line, empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return " | ".join(text.split("\n")).strip(" |")[-TAIL_CHARACTERS:]

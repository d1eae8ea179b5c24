"""One JSON object per log line, bound to the request it is about.

Prompts, pictures and tensors stay out of the log: of a field's value only plain scalars are
written, and of a field that may hold a user's words only its length.
"""

import contextlib
import contextvars
import datetime as dt
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Final, TextIO

from typing_extensions import override

__all__ = ["LOG_LEVELS", "JsonFormatter", "bind", "bound_fields", "configure_logging"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
"""Names accepted by ``configure_logging``."""

PRIVATE_FIELDS: Final = frozenset({"prompt", "negative_prompt", "token", "authorization"})
"""Fields whose values are never written, only how long they are."""

MAX_VALUE_CHARACTERS: Final = 2048
"""A longer string value is cut, so that one bad request cannot fill a disk."""

Scalar = str | int | float | bool | None

_FIELDS: contextvars.ContextVar[Mapping[str, Scalar] | None] = contextvars.ContextVar(
    "diptych_log_fields", default=None
)
_RECORD_ATTRIBUTES: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}


def bound_fields() -> Mapping[str, Scalar]:
    """Return the fields every line of this task or thread carries now."""
    return _FIELDS.get() or {}


@contextlib.contextmanager
def bind(**fields: Scalar) -> Iterator[None]:
    """Add ``fields`` to every line logged inside the block, in this task or thread only."""
    token = _FIELDS.set({**bound_fields(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object: time (UTC), level, logger, message, then its fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline at its end."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {k: v for k, v in vars(record).items() if _is_extra(k)}
        for name, value in {**bound_fields(), **extra}.items():
            line.setdefault(name, _shown(name, value))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, allow_nan=True)


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Send the process's log lines of ``level`` and above to ``stream`` as JSON.

    Replaces what was configured before, so calling it twice does not log twice.

    Args:
        level: One of ``LOG_LEVELS``.
        stream: Where lines go; standard error by default.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _shown(name: str, value: object) -> Scalar:
    """Return what of a field's value may be written."""
    if name in PRIVATE_FIELDS:
        return f"<{len(str(value))} characters>"
    if isinstance(value, str):
        return value if len(value) <= MAX_VALUE_CHARACTERS else f"{value[:MAX_VALUE_CHARACTERS]}..."
    if value is None or isinstance(value, bool | int | float):
        return value
    return f"<{type(value).__name__}>"


def _is_extra(name: str) -> bool:
    """Tell whether an attribute of a record was given with it; libraries add some of their own."""
    return name not in _RECORD_ATTRIBUTES and not name.startswith("_")

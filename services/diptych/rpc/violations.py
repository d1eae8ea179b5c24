"""Collects everything that is wrong with one request, so that the caller hears it at once."""

import math
from collections.abc import Collection

from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["Violations", "shown"]

MAX_SHOWN_CHARACTERS = 80


class Violations:
    """The findings so far, in the order of the checks; owned by one conversion.

    Each check returns a value that is safe to go on with, whether or not it found something.
    """

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Note that ``field`` is wrong."""
        self._found.append(FieldViolation(field=field, description=description))

    def extend(self, others: "Violations") -> None:
        """Take over what was found elsewhere."""
        self._found.extend(others.found)

    @property
    def found(self) -> tuple[FieldViolation, ...]:
        """Return what was found so far."""
        return tuple(self._found)

    def __bool__(self) -> bool:
        """Return whether anything was found."""
        return bool(self._found)

    def integer(self, field: str, value: int, low: int, high: int) -> int:
        """Return ``value``, which must lie in [low, high]."""
        if value < low:
            self.add(field, f"{value} is below the minimum of {low}")
        elif value > high:
            self.add(field, f"{value} exceeds the limit of {high}")
        return min(max(value, low), high)

    def number(self, field: str, value: float, low: float, high: float) -> float:
        """Return ``value``, which must be finite and lie in [low, high]."""
        if math.isfinite(value) and low <= value <= high:
            return value
        self.add(field, f"{value} is not in [{low:g}, {high:g}]")
        return low

    def inner_fraction(self, field: str, value: float) -> float:
        """Return ``value``, which must lie strictly between 0 and 1."""
        if 0.0 < value < 1.0:
            return value
        self.add(field, f"{value} is not in (0, 1), bounds excluded")
        return 0.5

    def name(self, field: str, value: str, names: Collection[str]) -> str:
        """Return ``value``, which must be one of ``names``."""
        if value not in names:
            self.add(field, f"{shown(value)} is not one of {', '.join(names)}")
        return value

    def text(self, field: str, value: str, max_bytes: int, *, required: bool = False) -> str:
        """Return ``value``, whose UTF-8 form is bounded; ``required`` refuses blank text."""
        size = len(value.encode())
        if size > max_bytes:
            self.add(field, f"{size} bytes exceed the limit of {max_bytes}")
        elif required and not value.strip():
            self.add(field, "is empty; a prompt needs at least one character that is not blank")
        return value

    def raise_if_any(self) -> None:
        """Raise InvalidRequest with everything found, or return when that is nothing."""
        if self._found:
            raise InvalidRequest(self._found)


def shown(text: str) -> str:
    """Return ``text`` quoted and short enough for a message."""
    cut = text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."
    return repr(cut)

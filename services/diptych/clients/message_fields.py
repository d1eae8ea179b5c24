"""Plain values into a message's fields, refused by name where a message cannot hold them."""

from collections.abc import Mapping
from typing import Final, TypeVar

from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["INT32", "INT64", "chosen", "integer", "unicode"]

INT32: Final = 1 << 31
INT64: Final = 1 << 63

Number = TypeVar("Number")


def chosen(field: str, value: str | None, choices: Mapping[str | None, Number]) -> Number:
    """Return what ``choices`` has for ``value``.

    Raises:
        InvalidRequest: It has nothing.
    """
    if value not in choices:
        names = ", ".join(name for name in choices if name)
        problem = f"{value!r:.80} is none of {names}"
        raise InvalidRequest([FieldViolation(field=field, description=problem)])
    return choices[value]


def integer(field: str, value: int, limit: int) -> int:
    """Return ``value`` if it lies in [-limit, limit).

    Raises:
        InvalidRequest: It does not.
    """
    if not -limit <= value < limit:
        problem = f"{value} is not in [{-limit}, {limit - 1}]"
        raise InvalidRequest([FieldViolation(field=field, description=problem)])
    return value


def unicode(field: str, value: str) -> str:
    """Return ``value`` if UTF-8 spells it.

    Raises:
        InvalidRequest: It holds half of a surrogate pair.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        problem = f"character {error.start} is half of a surrogate pair"
        raise InvalidRequest([FieldViolation(field=field, description=problem)]) from error
    return value

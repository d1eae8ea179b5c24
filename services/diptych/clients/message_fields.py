"""Plain values into a message's fields, refused by name where a message cannot hold them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["INT32", "INT64", "check_size", "chosen", "integer", "sendable", "unicode"]

INT32: Final = 1 << 31
INT64: Final = 1 << 63

Number = TypeVar("Number")
Sent = TypeVar("Sent", bound=Message)


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


def check_size(message: Message, limit_bytes: int) -> None:
    """Check that gRPC takes ``message``, which it would refuse without naming a field.

    Raises:
        InvalidRequest: It is larger than ``limit_bytes``; named is what is too large in it.
    """
    size = message.ByteSize()
    if size > limit_bytes:
        problem = f"{size} bytes exceed the limit of {limit_bytes} of one message"
        raise InvalidRequest([FieldViolation(field=_largest(message), description=problem)])


def sendable(messages: Iterable[Sent], limit_bytes: int) -> Iterator[Sent]:
    """Yield ``messages``; raises what ``check_size`` does."""
    for message in messages:
        check_size(message, limit_bytes)
        yield message


def _largest(message: Message) -> str:
    """Return where most of a message's bytes are: one field, or a list of many that share them."""
    field, value = max(message.ListFields(), key=lambda pair: _size(pair[1]))
    if not isinstance(value, str | bytes | Message) and field.is_repeated:
        number = max(range(len(value)), key=lambda place: _size(value[place]))
        if 2 * _size(value[number]) < _size(value):
            return field.name
        name, value = f"{field.name}[{number}]", value[number]
    else:
        name = field.name
    return f"{name}.{_largest(value)}" if isinstance(value, Message) else name


def _size(value: Any) -> int:  # noqa: ANN401 - whatever a field holds
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Message):
        return value.ByteSize()
    return sum(map(_size, value)) if hasattr(value, "__len__") else 1

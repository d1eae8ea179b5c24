"""What this package asks of a store of small values that change by compare-and-swap."""

from dataclasses import dataclass
from typing import Final, Protocol

from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["MAX_VALUE_BYTES", "Ref", "RefStamp", "RefStore", "check_value"]

MAX_VALUE_BYTES: Final = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class RefStamp:
    """A key and the version of its value; equal versions mean equal values."""

    key: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A key's value and its version, which a later write is compared with."""

    key: str
    value: bytes
    version: str


class RefStore(Protocol):
    """Values by key; of two writers that saw the same version, one wins and the other is told.

    Implementations are safe to use from many threads and processes (memory: threads). Every
    method raises ``SourceUnavailable`` when the store does not answer.
    """

    @property
    def location(self) -> str:
        """What errors and logs call this store."""

    def read(self, key: str) -> Ref | None:
        """Return the value of ``key`` now, None if it has none."""

    def write(self, key: str, value: bytes, *, expected: str | None) -> Ref | None:
        """Set ``key`` if its version is still ``expected``, None meaning that it has no value.

        Returns what is stored now, or None if another writer was first and nothing changed.

        Raises:
            InvalidRequest: ``value`` is empty or larger than ``MAX_VALUE_BYTES``.
            StoreFull: There is no room.
        """

    def delete(self, key: str, *, expected: str) -> bool:
        """Take the value of ``key`` away if its version is still ``expected``; tell whether."""

    def listing(self, prefix: str, *, after: str = "", limit: int) -> list[RefStamp]:
        """Return up to ``limit`` keys that begin with ``prefix`` and sort after ``after``."""


def check_value(value: bytes) -> bytes:
    """Return ``value`` if a ref may hold it; an empty one means that there is none.

    Raises:
        InvalidRequest: It is empty or larger than ``MAX_VALUE_BYTES``.
    """
    if 0 < len(value) <= MAX_VALUE_BYTES:
        return value
    description = f"{len(value)} bytes are not within 1 and {MAX_VALUE_BYTES}"
    raise InvalidRequest([FieldViolation(field="value", description=description)])

"""Streams of announced bytes on their way in, in memory, just as long as was announced."""

import hashlib
from typing import Protocol

from diptych.digest import Digest
from diptych.errors import DigestMismatch, FieldViolation, InvalidRequest

__all__ = ["Announced", "Receiving"]


class Announced(Protocol):
    """What comes."""

    @property
    def size_bytes(self) -> int:
        """Bytes to come."""

    @property
    def sha256(self) -> bytes:
        """Their SHA-256; empty where it is not checked."""


class Receiving:
    """The bytes of one thing; owned by the call that brings them."""

    def __init__(self, announced: Announced, field: str) -> None:
        """Begin; ``field`` is what errors call it."""
        self._announced, self._field = announced, field
        self._chunks: list[bytes] = []
        self._num_bytes = 0

    def write(self, chunk: bytes) -> bytes | None:
        """Take the next bytes and return them all if these were the last.

        Raises:
            InvalidRequest: More come than were announced, or none.
            DigestMismatch: They are others than announced.
        """
        self._num_bytes += len(chunk)
        announced = self._announced
        if not chunk or self._num_bytes > announced.size_bytes:
            problem = f"{self._num_bytes} bytes came, announced were {announced.size_bytes}"
            raise _invalid(self._field, problem if chunk else "an empty chunk")
        self._chunks.append(chunk)
        if self._num_bytes < announced.size_bytes:
            return None
        data = b"".join(self._chunks)
        if announced.sha256 and hashlib.sha256(data).digest() != announced.sha256:
            expected, actual = Digest(hex=announced.sha256.hex()), Digest.of_bytes(data)
            raise DigestMismatch(expected=str(expected), actual=str(actual))
        return data

    def cut(self) -> InvalidRequest:
        """Return the error that says the bytes ended too early."""
        announced = self._announced.size_bytes
        return _invalid(self._field, f"{self._num_bytes} bytes came, announced were {announced}")


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=problem)])

"""What this package asks of a store of immutable bytes, and what its keys may be."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["PIECE_BYTES", "BlobInfo", "BlobStore", "check_key", "folder_of"]

PIECE_BYTES: Final = 2**20
"""Bytes that are read at once."""
_MAX_KEY_LENGTH: Final = 900
"""S3 takes 1024 bytes; callers put a prefix before a key."""
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:=-]{0,249}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """One blob as a listing shows it."""

    key: str
    size_bytes: int
    modified_s: float
    """When it was last written, in seconds since 1970 by the store's clock, which may be wrong."""


class BlobStore(Protocol):
    """Bytes by key, written once and whole; implementations are safe to use from many threads.

    Every method raises ``SourceUnavailable`` when the store does not answer.
    """

    @property
    def location(self) -> str:
        """What errors and logs call this store, such as ``s3://bucket/prefix``."""

    def put(self, key: str, pieces: Iterable[bytes]) -> int:
        """Store all of ``pieces`` under ``key`` at once and return how many bytes they are.

        Nothing is visible before the last byte is stored; what ``pieces`` raises passes through
        and leaves nothing behind. Whoever has the old content open keeps reading it.

        Raises:
            StoreFull: There is no room.
        """

    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``start`` on, up to ``size_bytes`` of them, in pieces.

        Raises:
            BlobNotFound: With the first piece, if there is no such blob.
        """

    def find(self, key: str) -> BlobInfo | None:
        """Return what a listing shows of ``key``, None if there is no such blob."""

    def listing(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield every blob whose key begins with ``prefix``, in order of their keys."""

    def delete(self, key: str) -> None:
        """Remove a blob; it is no error if there is none."""

    def move(self, key: str, to: str) -> None:
        """Give a blob another key; the old key is gone only once the new one is there.

        Raises:
            BlobNotFound: There is no such blob.
        """

    def local_path(self, key: str) -> Path | None:
        """Return the file that holds a blob, if this store keeps blobs in files here.

        The file need not exist. It must not be written to.
        """


def check_key(key: str) -> str:
    """Return ``key`` if it cannot leave the folder or prefix it is put under.

    Raises:
        InvalidRequest: It is not parts of letters, digits and ``. _ : = -`` joined by slashes,
            each beginning with a letter, a digit or ``_``.
    """
    if len(key) <= _MAX_KEY_LENGTH and all(_PART.fullmatch(part) for part in key.split("/")):
        return key
    description = f"{key[:80]!r} is not a key of a store"
    raise InvalidRequest([FieldViolation(field="key", description=description)])


def folder_of(prefix: str) -> str:
    """Return the part of a listing's prefix that is a folder, empty for the whole store.

    Raises:
        InvalidRequest: That part is no key.
    """
    folder = prefix.rpartition("/")[0]
    return check_key(folder) if folder else ""

"""Packs: many embeddings in one immutable object, found through the index at its end.

    the entries' bytes, in order | one row for each of them | footer

All numbers are little-endian. A pack is named by the digest of its mark and its rows, which hold
the digest of every entry, and by how many rows there are: so a listing tells where they begin, and
a pack that was cut or damaged is not what its name says. The mark is drawn at random, so that no
name is written twice: whoever removes a pack removes the one that was seen.
"""

import hashlib
import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diptych.errors import BlobCorrupt

__all__ = [
    "KEY_BYTES",
    "ROW",
    "Pack",
    "PackRef",
    "Rows",
    "build_pack",
    "checked",
    "parse_tail",
    "split_entries",
]

KEY_BYTES: Final = 32
ROW: Final = np.dtype(
    [("key", "<u8", (4,)), ("offset", "<u8"), ("size", "<u8"), ("sha256", "<u8", (4,))]
)
"""80 bytes; keys and digests as four numbers each, since numpy compares numbers fast."""
Rows = NDArray[Any]
"""An array of ``ROW``."""
_FOOTER: Final = struct.Struct("<8sII16s32s")
"""Magic, version, number of rows, mark, digest of the mark and the rows."""
_MARK_BYTES: Final = 16
_MAGIC: Final = b"diptych\x00"
_VERSION: Final = 1
_NAME: Final = re.compile(r"([0-9a-f]{64})-(\d{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRef:
    """A pack as a listing shows it."""

    name: str
    size_bytes: int
    modified_s: float
    """As ``BlobInfo`` has it."""

    @property
    def is_valid(self) -> bool:
        """Whether this can be a pack at all."""
        found = _NAME.fullmatch(self.name)
        return bool(found) and self.num_entries > 0 and self.tail_bytes <= self.size_bytes

    @property
    def num_entries(self) -> int:
        """Return how many entries it holds."""
        return int(self.name.rpartition("-")[2])

    @property
    def tail_bytes(self) -> int:
        """Return how many bytes at its end are rows and footer."""
        return self.num_entries * ROW.itemsize + _FOOTER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack that is yet to be stored."""

    name: str
    rows: Rows
    pieces: Sequence[bytes]


def build_pack(entries: Iterable[tuple[bytes, bytes]]) -> Pack:
    """Return the pack of these keys [32 bytes] and their entries, in this order."""
    keys, pieces, digests = [], [], []
    for key, data in entries:
        keys.append(key)
        pieces.append(data)
        digests.append(hashlib.sha256(data).digest())
    rows = np.zeros(len(keys), ROW)
    rows["key"] = _numbers(keys)
    rows["size"] = [len(piece) for piece in pieces]
    rows["offset"] = _offsets(rows)
    rows["sha256"] = _numbers(digests)
    index, mark = rows.tobytes(), secrets.token_bytes(_MARK_BYTES)
    digest = hashlib.sha256(mark + index)
    footer = _FOOTER.pack(_MAGIC, _VERSION, len(rows), mark, digest.digest())
    name = f"{digest.hexdigest()}-{len(rows)}"
    return Pack(name=name, rows=rows, pieces=[*pieces, index, footer])


def parse_tail(ref: PackRef, tail: bytes) -> Rows:
    """Return the rows of the pack ``ref`` from its last ``tail_bytes``.

    Raises:
        BlobCorrupt: They are not what the pack's name says, or describe another size than its own.
    """
    index, footer = tail[: -_FOOTER.size], tail[-_FOOTER.size :]
    mark = footer[-_MARK_BYTES - hashlib.sha256().digest_size :][:_MARK_BYTES].ljust(_MARK_BYTES)
    digest = hashlib.sha256(mark + index)
    expected = _FOOTER.pack(_MAGIC, _VERSION, ref.num_entries, mark, digest.digest())
    if footer != expected or digest.hexdigest() != ref.name[: digest.digest_size * 2]:
        raise BlobCorrupt(digest=f"pack {ref.name}", actual=digest.hexdigest())
    rows = np.frombuffer(index, ROW)
    size_bytes = int(rows["size"].sum()) + len(tail)
    is_inside = int(rows["size"].max()) <= ref.size_bytes
    if (
        not is_inside
        or size_bytes != ref.size_bytes
        or not np.array_equal(rows["offset"], _offsets(rows))
    ):
        raise BlobCorrupt(digest=f"pack {ref.name}", actual=f"that of {size_bytes} bytes")
    return rows


def split_entries(rows: Rows, pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    """Yield the entry of each row from the bytes that begin with the first row's.

    ``rows`` are in order of their offsets; bytes between them are passed over. A damaged entry,
    or one that ``pieces`` end before, is None.
    """
    source, position, left = iter(pieces), int(rows["offset"][0]), memoryview(b"")
    for row in rows:
        parts: list[memoryview] = []
        gap, wanted = int(row["offset"]) - position, int(row["size"])
        position += gap + wanted
        while gap or wanted:
            if not left:
                left = memoryview(next(source, b""))
                if not left:
                    break
            if gap:
                gap, left = gap - len(left[:gap]), left[gap:]
                continue
            parts.append(left[:wanted])
            left = left[wanted:]
            wanted -= len(parts[-1])
        yield checked(b"".join(parts), row["sha256"].tobytes())


def checked(data: bytes, sha256: bytes) -> bytes | None:
    """Return ``data`` if it has this digest."""
    return data if hashlib.sha256(data).digest() == sha256 else None


def _numbers(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 4)


def _offsets(rows: Rows) -> NDArray[np.uint64]:
    """Return where entries of these sizes begin when they follow each other."""
    offsets = np.zeros(len(rows), "<u8")
    np.cumsum(rows["size"][:-1], out=offsets[1:])
    return offsets

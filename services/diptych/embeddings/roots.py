"""Roots: named lists of keys that ``gc`` keeps, such as those of a dataset or of a pin.

A root is written before what it names is encoded, so that nothing it needs is ever unprotected.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from diptych.digest import Digest
from diptych.embeddings.key_table import Keys, keys_of
from diptych.embeddings.pack import KEY_BYTES
from diptych.embeddings.packs import Packs, answering
from diptych.errors import BlobCorrupt, BlobNotFound
from diptych.storage.blobs import PIECE_BYTES

__all__ = ["RootInfo", "Roots"]

_MAGIC: Final = b"diptych-root-1\x00\x00"
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RootInfo:
    """A root as a listing shows it."""

    name: str
    num_keys: int
    modified_s: float
    """As ``BlobInfo`` has it."""


class Roots:
    """The roots beside packs; the last to write a name wins. Methods raise ``SourceUnavailable``.

    A root is the digest of its keys' bytes, then the keys in ascending order, each once.
    """

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._folder = f"{packs.namespace}/roots/"

    def write_root(self, name: str, keys: Iterable[Digest]) -> int:
        """Keep ``keys`` from being collected, as ``name``; return how many they are.

        Raises:
            InvalidRequest: ``name`` is no key of a store.
            StoreFull: There is no room.
        """
        raw = b"".join(bytes.fromhex(hexed) for hexed in sorted({key.hex for key in keys}))
        head = _MAGIC + hashlib.sha256(raw).digest()
        pieces = [raw[at : at + PIECE_BYTES] for at in range(0, len(raw), PIECE_BYTES)]
        with answering(self._packs.location):
            self._packs.blobs.put(f"{self._folder}{name}", [head, *pieces])
        return len(raw) // KEY_BYTES

    def read_root(self, name: str) -> list[Digest]:
        """Return the keys of ``name`` in ascending order.

        Raises:
            BlobNotFound: There is no such root.
            BlobCorrupt: It is damaged.
        """
        raw = self._read(name)
        parts = (raw[at : at + KEY_BYTES] for at in range(0, len(raw), KEY_BYTES))
        return [Digest(hex=part.hex()) for part in parts]

    def roots(self) -> list[RootInfo]:
        """Return every root in order of their names."""
        head_bytes = len(_MAGIC) + _DIGEST_BYTES
        with answering(self._packs.location):
            return [
                RootInfo(
                    name=info.key.removeprefix(self._folder),
                    num_keys=max(0, info.size_bytes - head_bytes) // KEY_BYTES,
                    modified_s=info.modified_s,
                )
                for info in self._packs.blobs.listing(self._folder)
            ]

    def delete_root(self, name: str) -> None:
        """Let go of what only ``name`` keeps; it is no error if there is no such root."""
        with answering(self._packs.location):
            self._packs.blobs.delete(f"{self._folder}{name}")

    def needed(self) -> Keys:
        """Return the keys of all roots [N, 4], some of them more than once.

        Raises:
            BlobCorrupt: A root is damaged: what it needs is not known.
        """
        found = [np.zeros((0, 4), "<u8")]
        for root in self.roots():
            try:
                found.append(keys_of(self._read(root.name)))
            except BlobNotFound:
                continue  # deleted since it was listed
        return np.concatenate(found)

    def _read(self, name: str) -> bytes:
        with answering(self._packs.location):
            data = b"".join(self._packs.blobs.read(f"{self._folder}{name}"))
        raw = data[len(_MAGIC) + _DIGEST_BYTES :]
        digest = hashlib.sha256(raw)
        if data != _MAGIC + digest.digest() + raw or len(raw) % KEY_BYTES:
            raise BlobCorrupt(digest=f"root {name}", actual=digest.hexdigest())
        return raw

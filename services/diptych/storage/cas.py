"""Bytes by their own digest: stored only if they have it, handed out only if they still do."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from diptych.digest import Digest
from diptych.errors import BlobCorrupt, BlobNotFound, DigestMismatch, SourceUnavailable
from diptych.storage.blobs import PIECE_BYTES, BlobStore, check_key

__all__ = ["ContentStore", "file_pieces"]

_log = logging.getLogger(__name__)


class ContentStore:
    """One namespace of a blob store, such as a tenant's.

    A put of what is there already writes it again: that costs a transfer, heals a damaged blob,
    and leaves no moment in which bytes that someone relies on are about to be swept.
    """

    def __init__(self, blobs: BlobStore, *, namespace: str) -> None:
        self.blobs = blobs
        self._namespace = check_key(namespace)

    def put(self, pieces: Iterable[bytes], digest: Digest) -> int:
        """Store ``pieces`` if they are the bytes of ``digest`` and return how many they are.

        Raises:
            DigestMismatch: They are others; nothing is stored.
            StoreFull: There is no room; nothing is stored.
            SourceUnavailable: The store does not answer; nothing can be seen of it.
        """
        return self.blobs.put(self.key(digest), _checked(pieces, digest))

    def put_bytes(self, data: bytes) -> Digest:
        """Store ``data`` and return its digest; raises what ``put`` does."""
        digest = Digest.of_bytes(data)
        self.put(_split(data), digest)
        return digest

    def put_file(self, path: Path) -> Digest:
        """Store what ``path`` holds and return its digest; raises what ``put`` does."""
        digest = Digest.of_file(path)
        self.put(file_pieces(path), digest)
        return digest

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield the bytes of ``digest``; only the end tells that they were right.

        A caller that shows or stores them does so when the last piece has come. Wrong bytes are
        read twice, since it may have been the way that damaged them, then put aside in
        ``quarantine``.

        Raises:
            BlobNotFound: There is no such blob.
            BlobCorrupt: With the end: the bytes are others.
            SourceUnavailable: The store does not answer, or (with the end) the bytes were whole
                when they were read again.
        """
        found = hashlib.sha256()
        try:
            for piece in self.blobs.read(self.key(digest)):
                found.update(piece)
                yield piece
        except BlobNotFound as error:
            raise self.missing(digest) from error
        if found.hexdigest() != digest.hex:
            raise self._damaged(digest)

    def read_bytes(self, digest: Digest) -> bytes:
        """Return the bytes of ``digest``, checked; raises what ``read`` does."""
        return b"".join(self.read(digest))

    def verify(self, digest: Digest) -> int:
        """Read all of ``digest`` and return how many bytes it has; raises what ``read`` does."""
        return sum(len(piece) for piece in self.read(digest))

    def size_bytes(self, digest: Digest) -> int | None:
        """Return how many bytes are stored under ``digest``, None if there is no such blob."""
        info = self.blobs.find(self.key(digest))
        return info.size_bytes if info else None

    def delete(self, digest: Digest) -> None:
        """Remove a blob; it is no error if there is none."""
        self.blobs.delete(self.key(digest))

    def listing(self) -> Iterator[tuple[Digest, int]]:
        """Yield the digest and size of every blob, in order of the digests."""
        for info in self.blobs.listing(f"{self._namespace}/sha256/"):
            yield Digest(hex=info.key.rpartition("/")[2]), info.size_bytes

    def key(self, digest: Digest) -> str:
        """Return the key that ``digest`` has in the blob store."""
        return f"{self._namespace}/sha256/{digest.hex[:2]}/{digest.hex}"

    def _quarantine_key(self, digest: Digest) -> str:
        return f"{self._namespace}/quarantine/{digest.hex}"

    def missing(self, digest: Digest) -> BlobNotFound | BlobCorrupt:
        """Return the error that says why there is no blob ``digest``."""
        if self.blobs.find(self._quarantine_key(digest)):
            return BlobCorrupt(digest=str(digest), actual="what was put into quarantine")
        return BlobNotFound(str(digest))

    def _damaged(self, digest: Digest) -> BlobCorrupt | SourceUnavailable:
        """Put a damaged blob aside, unless it is whole when it is read again."""
        found = hashlib.sha256()
        for piece in self.blobs.read(self.key(digest)):
            found.update(piece)
        actual = Digest(hex=found.hexdigest())
        if actual == digest:
            return SourceUnavailable(self.blobs.location, f"{digest} was damaged on its way")
        self.blobs.move(self.key(digest), self._quarantine_key(digest))
        _log.error("blob %s of %s is corrupt: %s", digest, self.blobs.location, actual)
        return BlobCorrupt(digest=str(digest), actual=str(actual))


def file_pieces(path: Path) -> Iterator[bytes]:
    """Yield what ``path`` holds."""
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _split(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


def _checked(pieces: Iterable[bytes], digest: Digest) -> Iterator[bytes]:
    """Yield ``pieces`` and raise in place of their end if they are not those of ``digest``."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    if found.hexdigest() != digest.hex:
        raise DigestMismatch(expected=str(digest), actual=f"sha256:{found.hexdigest()}")

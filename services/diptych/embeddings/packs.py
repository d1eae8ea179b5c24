"""The packs of one namespace of a blob store: listed, written whole, read with checks, put aside.

Nothing here is remembered, and nothing needs a lock: packs never change, no name is used twice, and
what is damaged is put into quarantine, where every process sees that it is.

    {namespace}/packs/{pack}                  entries
    {namespace}/quarantine/{pack}/{key}       a damaged entry's bytes; it is passed over
    {namespace}/quarantine/{pack}/pack        a pack whose index is damaged
"""

import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from diptych.embeddings.pack import (
    Pack,
    PackRef,
    Rows,
    build_pack,
    checked,
    parse_tail,
    split_entries,
)
from diptych.errors import BlobCorrupt, BlobNotFound, SourceUnavailable
from diptych.storage.blobs import BlobInfo, BlobStore, check_key

__all__ = ["Packs", "answering"]

_log = logging.getLogger(__name__)
_WHOLE: Final = "pack"


class Packs:
    """Stateless access to packs; every method may raise ``SourceUnavailable``."""

    def __init__(self, blobs: BlobStore, *, namespace: str) -> None:
        self.blobs = blobs
        self.namespace = check_key(namespace)

    @property
    def location(self) -> str:
        """Return what errors and logs call these packs."""
        return f"{self.blobs.location}/{self.namespace}"

    def listing(self) -> list[PackRef]:
        """Return every pack there is, oldest first; other files are passed over."""
        with answering(self.location):
            found = [_ref(info) for info in self.blobs.listing(self._key(""))]
        return sorted(
            (ref for ref in found if ref.is_valid), key=lambda ref: (ref.modified_s, ref.name)
        )

    def quarantined(self) -> dict[str, set[bytes]]:
        """Return the keys of the entries that were found damaged, by pack."""
        found: dict[str, set[bytes]] = {}
        for info in self.quarantine():
            _, name, last = info.key.rsplit("/", 2)
            if last != _WHOLE:
                found.setdefault(name, set()).add(bytes.fromhex(last))
        return found

    def quarantine(self) -> Iterator[BlobInfo]:
        """Yield everything that was put aside."""
        with answering(self.location):
            yield from self.blobs.listing(f"{self.namespace}/quarantine/")

    def rows(self, ref: PackRef) -> Rows | None:
        """Return the rows of a pack; None if it is gone, or damaged and now in quarantine."""
        try:
            return self._rows(ref)
        except BlobCorrupt:
            return self._rows_again(ref)
        except BlobNotFound:
            return None

    def is_put_aside(self, ref: PackRef) -> bool:
        """Tell whether a pack is in quarantine as a whole."""
        with answering(self.location):
            return self.blobs.find(self._aside(ref)) is not None

    def entries(self, ref: PackRef, rows: Rows) -> Iterator[bytes | None]:
        """Yield the entries of ``rows``, which are in order of their offsets; damaged are None.

        Raises:
            BlobNotFound: The pack is gone.
        """
        start = int(rows["offset"][0])
        end = int(rows["offset"][-1]) + int(rows["size"][-1])
        path = self.blobs.local_path(self._key(ref.name))
        with answering(self.location):
            if path is not None:
                yield from _file_entries(path, rows, end - start)
                return
            pieces = self.blobs.read(self._key(ref.name), start=start, size_bytes=end - start)
            yield from split_entries(rows, pieces)

    def write(self, entries: Iterable[tuple[bytes, bytes]]) -> tuple[PackRef, Rows]:
        """Store keys and their entries as one pack; nothing is seen of it before it is whole.

        Raises:
            StoreFull: There is no room.
        """
        pack = build_pack(entries)
        with answering(self.location):
            size_bytes = self.blobs.put(self._key(pack.name), pack.pieces)
            info = self.blobs.find(self._key(pack.name))
        return _written(pack, info, size_bytes), pack.rows

    def remove(self, ref: PackRef) -> None:
        """Remove a pack; it is no error if it is gone."""
        with answering(self.location):
            self.blobs.delete(self._key(ref.name))

    def put_aside(self, ref: PackRef, row: Rows) -> None:
        """Keep a damaged entry's bytes in quarantine, so that every process passes it over."""
        start, size_bytes = int(row["offset"][0]), int(row["size"][0])
        with answering(self.location):
            pieces = self.blobs.read(self._key(ref.name), start=start, size_bytes=size_bytes)
            key = row["key"][0].tobytes().hex()
            self.blobs.put(f"{self.namespace}/quarantine/{ref.name}/{key}", pieces)

    def touch(self, ref: PackRef) -> None:
        """Note that a pack is used, where packs are files; a disk that is read-only forgets it."""
        path = self.blobs.local_path(self._key(ref.name))
        if path is not None:
            with suppress(OSError):
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def used_s(self, ref: PackRef) -> float:
        """Return when a pack was last noted as used, else when it was written."""
        path = self.blobs.local_path(self._key(ref.name))
        if path is None:
            return ref.modified_s
        try:
            return path.stat().st_atime
        except OSError:
            return ref.modified_s

    def now_s(self) -> float:
        """Return what the store's clock shows, in seconds: ages are differences of one clock."""
        key = f"{self.namespace}/clock/{uuid.uuid4().hex}"
        with answering(self.location):
            try:
                self.blobs.put(key, [b"tick"])
                info = self.blobs.find(key)
            finally:
                self.blobs.delete(key)
        if info is None:
            raise SourceUnavailable(self.location, "what was written a moment ago is gone")
        return info.modified_s

    def _rows(self, ref: PackRef) -> Rows:
        start = ref.size_bytes - ref.tail_bytes
        with answering(self.location):
            pieces = self.blobs.read(self._key(ref.name), start=start, size_bytes=ref.tail_bytes)
            return parse_tail(ref, b"".join(pieces))

    def _rows_again(self, ref: PackRef) -> Rows | None:
        """Read once more, since it may have been the way that damaged them."""
        try:
            return self._rows(ref)
        except BlobCorrupt as error:
            _log.error("%s is put aside: %s", self.location, error)
        except BlobNotFound:
            return None
        with suppress(BlobNotFound), answering(self.location):
            self.blobs.move(self._key(ref.name), self._aside(ref))
        return None

    def _aside(self, ref: PackRef) -> str:
        return f"{self.namespace}/quarantine/{ref.name}/{_WHOLE}"

    def _key(self, name: str) -> str:
        return f"{self.namespace}/packs/{name}"


@contextmanager
def answering(location: str) -> Iterator[None]:
    """Turn what a disk raises that is read-only, unreadable or broken into this package's error.

    Raises:
        SourceUnavailable: It did.
    """
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(location, error.strerror or str(error)) from error


def _file_entries(path: Path, rows: Rows, size_bytes: int) -> Iterator[bytes | None]:
    """Yield as ``split_entries`` does, without copies."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise BlobNotFound(path.name) from error
    try:
        os.posix_fadvise(descriptor, int(rows["offset"][0]), size_bytes, os.POSIX_FADV_WILLNEED)
        for row in rows:
            data = os.pread(descriptor, int(row["size"]), int(row["offset"]))
            yield checked(data, row["sha256"].tobytes())
    finally:
        os.close(descriptor)


def _ref(info: BlobInfo) -> PackRef:
    name = info.key.rpartition("/")[2]
    return PackRef(name=name, size_bytes=info.size_bytes, modified_s=info.modified_s)


def _written(pack: Pack, info: BlobInfo | None, size_bytes: int) -> PackRef:
    modified_s = info.modified_s if info else 0.0
    return PackRef(name=pack.name, size_bytes=size_bytes, modified_s=modified_s)

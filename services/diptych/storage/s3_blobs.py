"""Blobs and refs as objects of a bucket, below one prefix; for many machines at once."""

from collections.abc import Iterable, Iterator
from itertools import islice

from diptych.errors import BlobNotFound, FieldViolation, ObjectNotFound, SettingInvalid
from diptych.storage.base import StoredObject
from diptych.storage.blobs import BlobInfo, check_key
from diptych.storage.refs import Ref, RefStamp, check_value
from diptych.storage.s3 import S3Store

__all__ = ["S3Blobs", "S3Refs"]

_PROBE = "_probe"


class S3Blobs:
    """Objects written whole: one request, or parts that a last request joins.

    Parts that a killed writer left cannot be seen, and are the bucket's lifecycle rule's to remove
    (``AbortIncompleteMultipartUpload``).
    """

    def __init__(self, store: S3Store, *, prefix: str) -> None:
        self._store, self._prefix = store, check_key(prefix)

    @property
    def location(self) -> str:
        """Return ``s3://bucket/prefix``."""
        return f"{self._store.location}/{self._prefix}"

    def put(self, key: str, pieces: Iterable[bytes]) -> int:
        """Upload the pieces."""
        return self._store.upload(self._key(key), pieces)

    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """Yield the object's bytes; a transfer that breaks goes on where it broke."""
        try:
            yield from self._store.read(self._key(key), start=start, size_bytes=size_bytes)
        except ObjectNotFound as error:
            raise BlobNotFound(key) from error

    def find(self, key: str) -> BlobInfo | None:
        """Return the object's size."""
        found = self._store.find(self._key(key))
        return _info(key, found) if found else None

    def listing(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield the objects page by page."""
        for item in self._store.scan(f"{self._prefix}/{prefix}"):
            key = item.key.removeprefix(f"{self._prefix}/")
            yield _info(key, item)

    def delete(self, key: str) -> None:
        """Delete the object."""
        self._store.delete(self._key(key))

    def move(self, key: str, to: str) -> None:
        """Copy the object, then delete it."""
        try:
            self._store.copy(self._key(key), self._key(to))
        except ObjectNotFound as error:
            raise BlobNotFound(key) from error
        self._store.delete(self._key(key))

    def local_path(self, key: str) -> None:
        """Return None: objects are elsewhere."""
        check_key(key)

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}"


class S3Refs:
    """Small objects changed by conditional writes; a value's version is its etag.

    A value that was taken away stays as an empty object: conditional writes are kept by many
    stores, conditional deletes by few.
    """

    def __init__(self, store: S3Store, *, prefix: str) -> None:
        self._store, self._prefix = store, check_key(prefix)

    @property
    def location(self) -> str:
        """Return ``s3://bucket/prefix``."""
        return f"{self._store.location}/{self._prefix}"

    def check(self) -> None:
        """See that the store keeps conditional writes, without which names would be lost.

        Raises:
            SettingInvalid: It wrote where it was told not to.
            ObjectNotFound: There is no such bucket.
            SourceUnavailable: It does not answer, or knows no conditional writes.
        """
        key = self._key(_PROBE)
        self._store.put_if(key, b"probe", expected=None)
        if self._store.put_if(key, b"probe", expected=None) is not None:
            description = f"{self.location} ignores If-None-Match, so names would not be safe"
            raise SettingInvalid([FieldViolation(field="store", description=description)])

    def read(self, key: str) -> Ref | None:
        """Return the object's content."""
        found = self._store.get(self._key(key))
        return Ref(key=key, value=found[0], version=found[1]) if found and found[0] else None

    def write(self, key: str, value: bytes, *, expected: str | None) -> Ref | None:
        """Put the object with If-Match or, where there is none, If-None-Match."""
        version = self._put(key, check_value(value), expected)
        return None if version is None else Ref(key=key, value=value, version=version)

    def delete(self, key: str, *, expected: str) -> bool:
        """Put an empty object with If-Match."""
        return self._store.put_if(self._key(key), b"", expected=expected) is not None

    def listing(self, prefix: str, *, after: str = "", limit: int) -> list[RefStamp]:
        """Return the first objects that are not empty."""
        after = f"{self._prefix}/{after}" if after else ""
        found = self._store.scan(f"{self._prefix}/{prefix}", after=after)
        stamps = (
            RefStamp(key=item.key.removeprefix(f"{self._prefix}/"), version=item.etag)
            for item in found
            if item.size_bytes
        )
        return list(islice(stamps, limit))

    def _put(self, key: str, value: bytes, expected: str | None) -> str | None:
        version = self._store.put_if(self._key(key), value, expected=expected)
        if version is not None or expected is not None:
            return version
        found = self._store.get(self._key(key))
        if found is None or found[0]:
            return None
        return self._store.put_if(self._key(key), value, expected=found[1])

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}"


def _info(key: str, item: StoredObject) -> BlobInfo:
    return BlobInfo(key=key, size_bytes=item.size_bytes, modified_s=item.modified_s)

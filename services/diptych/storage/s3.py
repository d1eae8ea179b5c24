"""An S3 bucket; the only module that knows boto3."""

import hashlib
import itertools
import logging
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from diptych.errors import DiptychError, ObjectNotFound, SourceUnavailable, StoreFull
from diptych.storage.base import StoredObject

__all__ = ["S3Config", "S3Store"]

_log = logging.getLogger(__name__)

_READ_BYTES = 2**18
_NUM_UPLOADS = 4
_WRITER = "writer"
"""Metadata that tells a writer its own value from another's."""
_MD5_HEX_LENGTH = 32
_MISSING_CODES = frozenset({"NoSuchBucket", "NoSuchKey", "404", "NotFound"})
_LOST_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_FULL_CODES = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507"})


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """Where S3 is. Credentials come from the provider chain of boto3, never from here."""

    endpoint_url: str | None = None
    """For MinIO, Ceph and other stores that speak S3; None is AWS."""
    region: str | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    num_attempts: int = 3
    page_size: int = 1000
    """Keys per listing call; stores give at most 1000."""
    part_bytes: int = 8 * 2**20
    """Objects larger than this are uploaded in parts of it; S3 takes no less than 5 MiB."""


class S3Store:
    """One bucket over HTTP."""

    def __init__(self, bucket: str, config: S3Config | None = None) -> None:
        config = config or S3Config()
        self._bucket = bucket
        self._config = config
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            config=Config(
                connect_timeout=config.connect_timeout_s,
                read_timeout=config.read_timeout_s,
                retries={"mode": "standard", "total_max_attempts": config.num_attempts},
            ),
        )

    @property
    def location(self) -> str:
        """Return ``s3://bucket``."""
        return f"s3://{self._bucket}"

    def list_objects(self, prefix: str) -> list[StoredObject]:
        """Return every object under ``prefix``; pages are joined."""
        pages = self._client.get_paginator("list_objects_v2")
        try:
            entries = [
                entry
                for page in pages.paginate(
                    Bucket=self._bucket,
                    Prefix=prefix,
                    PaginationConfig={"PageSize": self._config.page_size},
                )
                for entry in page.get("Contents", ())
            ]
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, prefix) from error
        return [_listed(entry) for entry in sorted(entries, key=lambda entry: str(entry["Key"]))]

    def download(self, stored: StoredObject, path: Path) -> None:
        """Stream the object to ``path`` and check its size and, where S3 has one, its MD5."""
        try:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=stored.key, IfMatch=stored.etag
            )
            with closing(answer["Body"]) as body:
                size_bytes, md5 = _write(path, body.iter_chunks(_READ_BYTES))
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, stored.key) from error
        if size_bytes != stored.size_bytes or (_is_md5(stored.etag) and md5 != stored.etag):
            detail = f"{size_bytes} bytes with MD5 {md5} are not what was listed"
            raise SourceUnavailable(f"{self.location}/{stored.key}", detail)

    def find(self, key: str) -> StoredObject | None:
        """Return what a listing shows of ``key``, None if there is no such object."""
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            if _code(error) in _MISSING_CODES:
                return None
            raise self._translate(error, key) from error
        return StoredObject(
            key=key,
            size_bytes=answer["ContentLength"],
            etag=answer["ETag"].strip('"'),
            modified_s=answer["LastModified"].timestamp(),
        )

    def scan(self, prefix: str, *, after: str = "") -> Iterator[StoredObject]:
        """Yield the objects under ``prefix`` that sort after ``after``, page by page."""
        more = {"StartAfter": after} if after else {}
        while True:
            try:
                page = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=prefix, MaxKeys=self._config.page_size, **more
                )
            except (BotoCoreError, ClientError) as error:
                raise self._translate(error, prefix) from error
            for entry in page.get("Contents", ()):
                yield _listed(entry)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Return a small object's content and etag, None if there is no such object."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            with closing(answer["Body"]) as body:
                return body.read(), answer["ETag"].strip('"')
        except (BotoCoreError, ClientError) as error:
            if _code(error) in _MISSING_CODES - {"NoSuchBucket"}:
                return None
            raise self._translate(error, key) from error

    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """Yield an object's bytes; a transfer that breaks goes on where it broke.

        Raises:
            ObjectNotFound: There is no such object.
            SourceUnavailable: The store does not answer, or the object changed meanwhile.
        """
        position, etag, num_failures = start, None, 0
        end = None if size_bytes is None else start + size_bytes
        while position != end:
            body, etag = self._open(key, position, end, etag)
            if body is None:
                return
            try:
                with closing(body):
                    for piece in body.iter_chunks(_READ_BYTES):
                        position, num_failures = position + len(piece), 0
                        yield piece
            except BotoCoreError as error:
                num_failures += 1
                if num_failures >= self._config.num_attempts:
                    raise self._translate(error, key) from error
                _log.warning("%s/%s broke off at byte %d: %s", self.location, key, position, error)
            else:
                return

    def put_if(self, key: str, data: bytes, *, expected: str | None) -> str | None:
        """Write a small object if its etag is ``expected``, None meaning that there is none.

        Returns the new etag, or None if another writer was first. A write whose answer was lost
        is recognised by the mark it left.
        """
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        mark = uuid.uuid4().hex
        try:
            answer = self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, Metadata={_WRITER: mark}, **condition
            )
        except (BotoCoreError, ClientError) as error:
            if _code(error) not in _LOST_CODES | _MISSING_CODES - {"NoSuchBucket"}:
                raise self._translate(error, key, len(data)) from error
            return self._own_write(key, mark)
        return str(answer["ETag"]).strip('"')

    def upload(self, key: str, pieces: Iterable[bytes]) -> int:
        """Write an object of any size, seen only when it is whole; return how many bytes it has.

        Raises:
            StoreFull: A quota leaves no room.
            SourceUnavailable: The store does not answer.
        """
        parts = _parts(pieces, self._config.part_bytes)
        first, second = next(parts, b""), next(parts, None)
        try:
            if second is not None:
                return self._upload_parts(key, itertools.chain((first, second), parts))
            self._client.put_object(Bucket=self._bucket, Key=key, Body=first)
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, key, len(first)) from error
        return len(first)

    def copy(self, key: str, to: str) -> None:
        """Write an object's content under another key too."""
        source = {"Bucket": self._bucket, "Key": key}
        try:
            self._client.copy(source, self._bucket, to)
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, key) from error

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if there is none."""
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, key) from error

    def _open(
        self, key: str, position: int, end: int | None, etag: str | None
    ) -> tuple[Any, str | None]:
        """Return an open body and its etag; no body where the object ends at ``position``."""
        asked = {"IfMatch": etag} if etag else {}
        if position or end is not None:
            asked["Range"] = f"bytes={position}-{'' if end is None else end - 1}"
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **asked)
        except (BotoCoreError, ClientError) as error:
            if _code(error) in {"InvalidRange", "416"}:
                return None, etag
            raise self._translate(error, key) from error
        return answer["Body"], answer["ETag"]

    def _own_write(self, key: str, mark: str) -> str | None:
        """Return the etag of ``key`` if what lies there was written with ``mark``."""
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            if _code(error) in _MISSING_CODES:
                return None
            raise self._translate(error, key) from error
        is_own = answer["Metadata"].get(_WRITER) == mark
        return str(answer["ETag"]).strip('"') if is_own else None

    def _upload_parts(self, key: str, parts: Iterator[bytes]) -> int:
        """Upload in parts, several at a time; give up all of them if anything goes wrong."""
        where = {"Bucket": self._bucket, "Key": key}
        where["UploadId"] = self._client.create_multipart_upload(**where)["UploadId"]
        waiting: deque[Future[dict[str, Any]]] = deque()
        done: list[dict[str, Any]] = []
        size_bytes = 0
        try:
            with ThreadPoolExecutor(_NUM_UPLOADS, thread_name_prefix="upload") as pool:
                for number, part in enumerate(parts, start=1):
                    size_bytes += len(part)
                    waiting.append(pool.submit(self._upload_part, where, number, part))
                    if len(waiting) >= _NUM_UPLOADS:
                        done.append(waiting.popleft().result())
                done.extend(future.result() for future in waiting)
            self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})
        except BaseException:
            self._abandon(where)
            raise
        return size_bytes

    def _upload_part(self, where: dict[str, str], number: int, part: bytes) -> dict[str, Any]:
        answer = self._client.upload_part(**where, PartNumber=number, Body=part)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _abandon(self, where: dict[str, str]) -> None:
        """Free the parts; where the store does not answer, the bucket's lifecycle rule does."""
        try:
            self._client.abort_multipart_upload(**where)
        except (BotoCoreError, ClientError) as error:
            _log.warning("parts of %s/%s stay: %s", self.location, where["Key"], error)

    def _translate(
        self, error: BotoCoreError | ClientError, key: str, size_bytes: int = 0
    ) -> DiptychError:
        location, code = f"{self.location}/{key}", _code(error)
        if code in _MISSING_CODES:
            return ObjectNotFound(location)
        if code in _FULL_CODES:
            return StoreFull(location=self.location, size_bytes=size_bytes)
        return SourceUnavailable(location, str(error))


def _listed(entry: dict[str, Any]) -> StoredObject:
    return StoredObject(
        key=entry["Key"],
        size_bytes=entry["Size"],
        etag=entry["ETag"].strip('"'),
        modified_s=entry["LastModified"].timestamp(),
    )


def _code(error: BotoCoreError | ClientError) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def _parts(pieces: Iterable[bytes], part_bytes: int) -> Iterator[bytes]:
    """Yield ``pieces`` joined and cut into parts of ``part_bytes``, the last one shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= part_bytes:
            yield bytes(waiting[:part_bytes])
            del waiting[:part_bytes]
    if waiting:
        yield bytes(waiting)


def _write(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    size_bytes, md5 = 0, hashlib.md5(usedforsecurity=False)
    with path.open("xb") as stream:
        for piece in pieces:
            stream.write(piece)
            md5.update(piece)
            size_bytes += len(piece)
    return size_bytes, md5.hexdigest()


def _is_md5(etag: str) -> bool:
    """Tell whether ``etag`` is the content's MD5; of a multipart upload it is not."""
    return len(etag) == _MD5_HEX_LENGTH and not set(etag) - set("0123456789abcdef")

"""An S3 bucket; the only module that knows boto3."""

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from diptych.errors import DiptychError, ObjectNotFound, SourceUnavailable
from diptych.storage.base import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["S3Config", "S3Store"]

_READ_BYTES = 2**20
_MD5_HEX_LENGTH = 32
_MISSING_CODES = frozenset({"NoSuchBucket", "NoSuchKey", "404", "NotFound"})


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


class S3Store:
    """One bucket over HTTP."""

    def __init__(self, bucket: str, config: S3Config | None = None) -> None:
        config = config or S3Config()
        self._bucket = bucket
        self._page_size = config.page_size
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
                    PaginationConfig={"PageSize": self._page_size},
                )
                for entry in page.get("Contents", ())
            ]
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, prefix) from error
        return [
            StoredObject(key=entry["Key"], size_bytes=entry["Size"], etag=entry["ETag"].strip('"'))
            for entry in sorted(entries, key=lambda entry: str(entry["Key"]))
        ]

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

    def _translate(self, error: BotoCoreError | ClientError, key: str) -> DiptychError:
        location = f"{self.location}/{key}"
        if isinstance(error, ClientError) and error.response["Error"]["Code"] in _MISSING_CODES:
            return ObjectNotFound(location)
        return SourceUnavailable(location, str(error))


def _write(path: Path, pieces: "Iterable[bytes]") -> tuple[int, str]:
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

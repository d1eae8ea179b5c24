"""A real S3 server, moto's, that takes one request at a time, and buckets in it.

One at a time, because S3 decides a conditional write at once and moto's threads do not.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from diptych.storage.s3 import S3Config, S3Store

__all__ = ["BUCKET", "REGION", "Bucket", "s3_bucket", "s3_config", "s3_server"]

BUCKET = "adapters"
REGION = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket: a store over it, and boto3's own client to look into it."""

    store: S3Store
    client: Any

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the objects below ``prefix``, without it."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [entry["Key"].removeprefix(f"{prefix}/") for entry in listed.get("Contents", ())]

    def num_uploads(self) -> int:
        """Return how many uploads in parts are not finished."""
        return len(self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the server and yield its URL."""
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3_bucket(url: str) -> Bucket:
    """Create the bucket if need be and return it; its clients keep the credentials they found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        client = boto3.client("s3", endpoint_url=url, region_name=REGION)
        client.create_bucket(Bucket=BUCKET)
        return Bucket(client=client, store=S3Store(BUCKET, s3_config(url)))


def s3_config(url: str) -> S3Config:
    """Return how to reach the server: two attempts, a second each, small pages."""
    return S3Config(
        endpoint_url=url, region=REGION, num_attempts=2, read_timeout_s=1.0, page_size=7
    )

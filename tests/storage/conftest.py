"""Real S3 servers, moto's, on ports of their own, and every kind of store."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.memory import MemoryBlobs, MemoryRefs
from diptych.storage.refs import RefStore
from diptych.storage.s3 import S3Config
from diptych.storage.s3_blobs import S3Blobs, S3Refs
from support.buckets import Bucket, s3_bucket
from support.buckets import s3_server as serial_s3_server
from support.faulty_proxy import FaultyProxy, faulty_proxy

REGION = "us-east-1"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Yield the address of an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_config(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> S3Config:
    """Return how to reach the server, with credentials where boto3 looks for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return S3Config(endpoint_url=s3_server, region=REGION, num_attempts=1)


@pytest.fixture
def put(s3_server: str, s3_config: S3Config) -> Iterator[Callable[[str, bytes], None]]:
    """Yield a function that stores an object in the bucket ``weights``, emptied afterwards."""
    client = boto3.client("s3", endpoint_url=s3_server, region_name=REGION)
    client.create_bucket(Bucket="weights")
    yield lambda key, data: client.put_object(Bucket="weights", Key=key, Body=data)
    listed = client.list_objects_v2(Bucket="weights").get("Contents", ())
    for entry in listed:
        client.delete_object(Bucket="weights", Key=entry["Key"])
    client.delete_bucket(Bucket="weights")
    client.close()


@pytest.fixture(scope="session")
def serial_server() -> Iterator[str]:
    """Yield the address of an S3 server whose conditional writes are decided at once."""
    with serial_s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def bucket(serial_server: str) -> Bucket:
    """Return a bucket for blobs and refs; tests keep apart by their ``prefix``."""
    return s3_bucket(serial_server)


@pytest.fixture(scope="session")
def running_proxy(serial_server: str) -> Iterator[FaultyProxy]:
    """Yield a proxy in front of the server of ``bucket``."""
    with faulty_proxy(serial_server) as running:
        yield running


@pytest.fixture(scope="session")
def proxied(running_proxy: FaultyProxy) -> Bucket:
    """Return the same bucket as it is reached through the proxy."""
    return s3_bucket(running_proxy.url)


@pytest.fixture
def proxy(running_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """Yield the proxy, which causes no faults yet."""
    running_proxy.forget()
    yield running_proxy
    running_proxy.forget()


@pytest.fixture
def prefix() -> str:
    """Return a prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "local", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> BlobStore:
    """Return an empty blob store of every kind."""
    if request.param == "memory":
        return MemoryBlobs()
    if request.param == "local":
        return LocalBlobs(tmp_path / "blobs")
    return S3Blobs(request.getfixturevalue("bucket").store, prefix=prefix)


@pytest.fixture(params=["memory", "local", "s3"])
def refs(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> RefStore:
    """Return an empty ref store of every kind."""
    if request.param == "memory":
        return MemoryRefs()
    if request.param == "local":
        return LocalRefs(tmp_path / "refs")
    return S3Refs(request.getfixturevalue("bucket").store, prefix=prefix)

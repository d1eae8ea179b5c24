"""Stores of packs in folders and in a real S3 server's buckets, with a proxy that causes faults."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryBlobs
from diptych.storage.s3_blobs import S3Blobs
from support.buckets import Bucket, s3_bucket, s3_server
from support.faulty_proxy import FaultyProxy, faulty_proxy

_NOBODY = 65534


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Yield the address of an S3 server."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def bucket(server: str) -> Bucket:
    """Return its bucket; tests keep apart by their ``prefix``."""
    return s3_bucket(server)


@pytest.fixture(scope="session")
def running_proxy(server: str, bucket: Bucket) -> Iterator[FaultyProxy]:
    """Yield a proxy in front of the server."""
    del bucket
    with faulty_proxy(server) as running:
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


@pytest.fixture
def far(proxied: Bucket, prefix: str) -> S3Blobs:
    """Return empty blobs in the bucket, reached through the proxy."""
    return S3Blobs(proxied.store, prefix=prefix)


@pytest.fixture(params=["memory", "local", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> BlobStore:
    """Return an empty blob store of every kind."""
    if request.param == "memory":
        return MemoryBlobs()
    if request.param == "local":
        return LocalBlobs(tmp_path / "blobs")
    return S3Blobs(request.getfixturevalue("bucket").store, prefix=prefix)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Yield a folder that every user of this machine can reach."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for folder in (Path(name), *(path for path in Path(name).rglob("*") if path.is_dir())):
            folder.chmod(0o755)


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which this process may write only where its permissions say so."""

    @contextmanager
    def drop() -> Iterator[None]:
        before = os.geteuid()
        if before == 0:
            os.seteuid(_NOBODY)
        yield
        os.seteuid(before)

    return drop

"""A real S3 server, moto's, on a port of its own, with one bucket."""

from collections.abc import Callable, Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from diptych.storage.s3 import S3Config

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

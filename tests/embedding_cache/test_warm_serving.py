"""A server warms up for callers, with no data but what its settings allow."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import WarmCall
from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.embedding_cache.warm_serving import server_places
from diptych.errors import DatasetInvalid, InvalidRequest
from diptych.rpc.channel import ChannelConfig
from support.warming import a_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundCache]:
    """Return a server that may read below ``data``."""
    own = CacheSettings(port=0, metrics_port=0, dataset_dir=data)
    server = BackgroundCache(Settings(home=tmp_path_factory.mktemp("home"), cache=own))
    server.start(timeout_s=100.0)
    yield server
    server.stop()


@pytest.fixture
def client(server: BackgroundCache) -> Iterator[EmbeddingCacheClient]:
    channel = ChannelConfig(address=server.address)
    with EmbeddingCacheClient(ClientConfig(channel=channel, timeout_s=100.0)) as client:
        yield client


def metrics(server: BackgroundCache, name: str) -> float:
    """Return the sum of a metric's samples."""
    url = f"http://127.0.0.1:{server.ports.metrics_port}/metrics"
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_second_stage_of_a_fine_tune_encodes_nothing(
    client: EmbeddingCacheClient, server: BackgroundCache, data: Path
) -> None:
    manifest = a_dataset(data, 5)
    heard: list[tuple[int, int]] = []
    first = client.warm(
        WarmCall(manifest=manifest, stages=["base"]),
        progress=lambda done, total: heard.append((done, total)),
    )
    misses, made = (
        metrics(server, name)
        for name in ("diptych_cache_misses_total", "diptych_cache_encode_batch_size_sum")
    )
    second = client.warm(WarmCall(manifest=manifest, stages=["refiner"]))
    assert (first.num_total, first.num_encoded, misses, made) == (10, 10, 10.0, 10.0)
    assert (second.num_total, second.num_present, second.num_encoded) == (10, 10, 0)
    assert metrics(server, "diptych_cache_misses_total") == misses
    assert metrics(server, "diptych_cache_encode_batch_size_sum") == made
    assert metrics(server, "diptych_cache_hits_total") == 10.0
    assert heard[-1][1] == 10
    assert client.stats().num_roots == 2


def test_manifest_does_not_lead_out_of_the_folder(client: EmbeddingCacheClient) -> None:
    outside = "datasets: [{id: one, source: {type: folder, path: %s}}]"
    for path in ("..", "/etc"):
        with pytest.raises(DatasetInvalid, match="outside"):
            client.warm(WarmCall(manifest=outside % path))


def test_bucket_and_hub_are_refused_unless_the_settings_name_them(
    client: EmbeddingCacheClient,
) -> None:
    bucket = "type: s3, bucket: some-bucket, prefix: p, endpoint_url: 'http://127.0.0.1:1'"
    for source in (bucket, "type: huggingface, dataset: a/b"):
        with pytest.raises(DatasetInvalid, match="may not be read here"):
            client.warm(WarmCall(manifest=f"datasets: [{{id: one, source: {{{source}}}}}]"))
    with pytest.raises(DatasetInvalid, match="may not be asked from here"):
        client.warm(WarmCall(manifest=f"datasets: [{{id: one, source: {{{bucket}}}}}]"))


def test_images_that_cannot_be_used_are_named(client: EmbeddingCacheClient, data: Path) -> None:
    manifest = a_dataset(data / "more", 2).replace("path: in", "path: more/in")
    (data / "more" / "in" / "p0.png").write_bytes(b"no picture")
    result = client.warm(WarmCall(manifest=manifest))
    assert (result.num_total, result.num_failed, list(result.failures)) == (2, 1, ["one: p0.png"])


def test_prefixes_of_the_settings_are_the_buckets_that_may_be_read() -> None:
    own = CacheSettings(dataset_prefixes=("s3://bucket/data/",), s3_endpoint="http://minio")
    places = server_places(Settings(cache=own))
    assert places.allows_endpoint("http://minio")
    assert not places.allows_endpoint("http://elsewhere")
    assert places.allows_bucket("bucket", "data/cats")
    assert not places.allows_bucket("bucket", "other")
    assert not places.allows_path(Path("/"))
    assert (places.hub, places.urls) == (False, False)


def test_server_without_data_says_so(tmp_path: Path) -> None:
    server = BackgroundCache(
        Settings(home=tmp_path, cache=CacheSettings(port=0, metrics_port=None))
    )
    server.start(timeout_s=100.0)
    channel = ChannelConfig(address=server.address)
    with (
        EmbeddingCacheClient(ClientConfig(channel=channel)) as client,
        pytest.raises(InvalidRequest, match="no dataset folder"),
    ):
        client.warm(WarmCall(manifest="datasets: []"))
    server.stop()

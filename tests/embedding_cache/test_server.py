"""The service comes up, answers probes and scrapes, and ends in order."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import PromptsCall
from diptych.embedding_cache.ports import Hosting
from diptych.embedding_cache.server import BackgroundCache, Loaded
from diptych.embedding_cache.service import CACHE_SERVICE_NAME
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.errors import ModelNotFound, SettingInvalid
from diptych.rpc.channel import ChannelConfig
from diptych.telemetry.cache_metrics import CacheMetrics, CacheReading, TierReading

READING = CacheReading(
    tiers={"memory": TierReading(num_entries=2, size_bytes=3, num_evictions=4)},
    num_damaged=0,
    num_roots=0,
    in_flight={},
)


def settings(**own: object) -> Settings:
    return Settings(cache=CacheSettings(**{"port": 0, "metrics_port": 0} | own))  # type: ignore[arg-type]


class Load:
    def __init__(self, hosting: Hosting) -> None:
        self.hosting, self.num_closed = hosting, 0

    def __call__(self, settings: Settings, metrics: CacheMetrics) -> Loaded:
        del settings, metrics
        return Loaded(
            hosting=self.hosting,
            models={"base": "nano"},
            version="1",
            read=lambda: READING,
            close=self.close,
        )

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def load(hosting: Hosting) -> Load:
    return Load(hosting)


@pytest.fixture
def server(load: Load) -> Iterator[BackgroundCache]:
    server = BackgroundCache(settings(), load)
    server.start(timeout_s=30.0)
    yield server
    server.stop()


def test_calls_are_served(server: BackgroundCache) -> None:
    config = ClientConfig(channel=ChannelConfig(address=server.address))
    with EmbeddingCacheClient(config) as client:
        assert client.encode_prompts(PromptsCall(prompts=["a"]))[0].source == "encoded"


def test_probe_hears_that_it_serves(server: BackgroundCache) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=CACHE_SERVICE_NAME))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_scrape_reads_the_cache(server: BackgroundCache) -> None:
    url = f"http://127.0.0.1:{server.ports.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    assert 'diptych_cache_bytes{tier="memory"} 3.0' in text
    assert 'diptych_build_info{base="nano",version="1"} 1.0' in text


def test_what_was_loaded_is_closed_once(load: Load) -> None:
    server = BackgroundCache(settings(), load)
    server.start(timeout_s=30.0)
    server.stop()
    assert load.num_closed == 1


def test_model_that_is_not_there_ends_it(tmp_path: Path) -> None:
    server = BackgroundCache(settings(base=str(tmp_path / "absent"), refiner=None))
    with pytest.raises(ModelNotFound):
        server.start(timeout_s=60.0)


def test_port_in_use_ends_it(server: BackgroundCache, load: Load) -> None:
    other = BackgroundCache(settings(port=server.ports.port), load)
    with pytest.raises(SettingInvalid, match="port"):
        other.start(timeout_s=30.0)

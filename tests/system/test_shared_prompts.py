"""Servers that share a cache service do not encode what another one has encoded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.clients.calls import GenerateCall, Stage
from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import PromptsCall
from diptych.clients.events import Completed, Timings
from diptych.clients.inference import InferenceClient
from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings
from diptych.embedding_cache.settings import Settings as CacheServiceSettings
from diptych.inference.server import BackgroundServer
from diptych.inference.settings import InferenceSettings, Settings
from diptych.rpc.channel import ChannelConfig

pytestmark = pytest.mark.system

START_TIMEOUT_S = 110.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundCache]:
    home = tmp_path_factory.mktemp("cache")
    own = CacheSettings(port=0, metrics_port=None)
    server = BackgroundCache(CacheServiceSettings(home=home, cache=own))
    server.start(timeout_s=START_TIMEOUT_S)
    yield server
    server.stop()


def painted(home: Path, cache: BackgroundCache, prompt: str) -> Timings:
    """Start a server beside ``cache``, have a picture painted and stop it."""
    own = InferenceSettings(port=0, metrics_port=None, grace_s=1.0, prompt_cache_peer=cache.address)
    server = BackgroundServer(Settings(home=home, inference=own))
    server.start(timeout_s=START_TIMEOUT_S)
    channel = ChannelConfig(address=server.address, max_attempts=1)
    with InferenceClient(ClientConfig(channel=channel, timeout_s=100.0)) as client:
        stage = Stage(prompt=prompt)
        events = list(client.generate(GenerateCall(base=stage, num_steps=1, width=64, height=64)))
    server.stop()
    assert isinstance(events[-1], Completed)
    return events[-1].timings


def test_what_one_server_encoded_another_finds(tmp_path: Path, cache: BackgroundCache) -> None:
    first, second = (painted(tmp_path, cache, "a red circle") for _ in range(2))
    # A prompt and, for guidance, its negative; of each expert, which share their encoders.
    assert (first.num_texts_encoded, first.num_texts_cached) == (4, 0)
    assert (second.num_texts_encoded, second.num_texts_cached) == (0, 4)


def test_what_the_cache_service_encoded_a_server_finds(
    tmp_path: Path, cache: BackgroundCache
) -> None:
    channel = ChannelConfig(address=cache.address, max_attempts=1)
    with EmbeddingCacheClient(ClientConfig(channel=channel, timeout_s=100.0)) as client:
        client.encode_prompts(PromptsCall(prompts=["a blue star", None]))
    told = painted(tmp_path, cache, "a blue star")
    assert (told.num_texts_encoded, told.num_texts_cached) == (0, 4)

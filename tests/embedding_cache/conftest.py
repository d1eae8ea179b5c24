"""The nano pair, and a served cache over loopback, in a thread as a synchronous client needs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.embedding_cache.ports import Hosting, Stage
from diptych.models.experts import Expert, Experts, load_experts
from support.cache_server import cache_server
from support.embedding_stores import FakeEncoding, FakeStore


@pytest.fixture(scope="session")
def experts(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    """Return the nano pair, float32 on the CPU."""
    cache_dir = tmp_path_factory.mktemp("models")
    return load_experts(str(nano_pair / "base"), str(nano_pair / "refiner"), cache_dir=cache_dir)


@pytest.fixture(scope="session")
def base(experts: Experts) -> Expert:
    """Return the nano pair's base expert."""
    assert experts.base is not None
    return experts.base


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def encoding() -> Iterator[FakeEncoding]:
    encoding = FakeEncoding()
    yield encoding
    encoding.threads.shutdown()


@pytest.fixture
def hosting(store: FakeStore, encoding: FakeEncoding) -> Hosting:
    return Hosting(
        encodings={Stage.BASE: encoding}, store_of=lambda _tenant: store, encoded=encoding.counts
    )


@pytest.fixture
def config(hosting: Hosting) -> Iterator[ClientConfig]:
    """Serve ``hosting``."""
    with cache_server(hosting) as config:
        yield config


@pytest.fixture
def client(config: ClientConfig) -> Iterator[EmbeddingCacheClient]:
    with EmbeddingCacheClient(config) as client:
        yield client

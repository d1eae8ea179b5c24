"""The nano pair, and a served cache over loopback, in a thread as a synchronous client needs it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.embedding_cache.ports import Hosting, Stage
from diptych.embedding_cache.service import CACHE_SERVICE_NAME, EmbeddingCacheService
from diptych.models.experts import Expert, Experts, load_experts
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.server import RpcServer, ServerConfig
from diptych.v1.embedding_cache_pb2_grpc import add_EmbeddingCacheServiceServicer_to_server
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
    ports: list[int] = []
    ends: list[Callable[[], object]] = []
    ready = threading.Event()

    async def main() -> None:
        service, ended = EmbeddingCacheService(), asyncio.Event()
        service.open(hosting)
        server = RpcServer(ServerConfig(port=0))
        server.add_service(CACHE_SERVICE_NAME, service, add_EmbeddingCacheServiceServicer_to_server)
        async with server:
            ports.append(server.port)
            loop = asyncio.get_running_loop()
            ends.append(lambda: loop.call_soon_threadsafe(ended.set))
            ready.set()
            await ended.wait()
        service.close()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, main())
        assert ready.wait(30)
        channel = ChannelConfig(address=f"127.0.0.1:{ports[0]}", max_attempts=1)
        yield ClientConfig(channel=channel, timeout_s=30.0)
        ends[0]()
        serving.result(30)


@pytest.fixture
def client(config: ClientConfig) -> Iterator[EmbeddingCacheClient]:
    with EmbeddingCacheClient(config) as client:
        yield client

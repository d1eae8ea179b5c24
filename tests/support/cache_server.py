"""The cache's service over loopback, in a thread as a synchronous client needs it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from diptych.clients.config import ClientConfig
from diptych.embedding_cache.ports import Hosting
from diptych.embedding_cache.service import CACHE_SERVICE_NAME, EmbeddingCacheService
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.server import RpcServer, ServerConfig
from diptych.v1.embedding_cache_pb2_grpc import add_EmbeddingCacheServiceServicer_to_server

__all__ = ["cache_server"]


@contextmanager
def cache_server(hosting: Hosting) -> Iterator[ClientConfig]:
    """Serve ``hosting`` and tell how to call it."""
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

"""A server that does not come is not waited for forever."""

import pytest

from diptych.clients.async_embedding_cache import AsyncEmbeddingCacheClient
from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.errors import ServerUnreachable
from diptych.rpc.channel import ChannelConfig

NOWHERE = ClientConfig(channel=ChannelConfig(address="127.0.0.1:1", max_attempts=1))


def test_absence_until_the_deadline_is_named() -> None:
    with EmbeddingCacheClient(NOWHERE) as client, pytest.raises(ServerUnreachable, match=r"0\.1 s"):
        client.wait_until_ready(timeout_s=0.1)


async def test_asyncio_client_says_the_same() -> None:
    async with AsyncEmbeddingCacheClient(NOWHERE) as client:
        with pytest.raises(ServerUnreachable, match=r"0\.1 s"):
            await client.wait_until_ready(timeout_s=0.1)

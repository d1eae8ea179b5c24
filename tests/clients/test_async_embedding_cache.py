"""The asyncio client of the cache where no server answers; with one, see ``embedding_cache``."""

import pytest

from diptych.clients.async_embedding_cache import AsyncEmbeddingCacheClient
from diptych.clients.config import ClientConfig
from diptych.errors import ServerUnreachable
from diptych.rpc.channel import ChannelConfig

NOWHERE = ClientConfig(channel=ChannelConfig(address="127.0.0.1:1", max_attempts=1), timeout_s=5.0)


async def test_server_that_does_not_answer_is_an_error() -> None:
    async with AsyncEmbeddingCacheClient(NOWHERE) as client:
        with pytest.raises(ServerUnreachable):
            await client.stats()

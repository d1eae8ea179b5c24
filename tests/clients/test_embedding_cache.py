"""The client of the cache where no server answers; with one, see ``embedding_cache``."""

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import PromptsCall
from diptych.digest import Digest
from diptych.errors import InvalidRequest, ServerUnreachable
from diptych.rpc.channel import ChannelConfig

NOWHERE = ClientConfig(channel=ChannelConfig(address="127.0.0.1:1", max_attempts=1), timeout_s=5.0)
KEY = Digest.of_bytes(b"key")


def test_server_that_does_not_answer_is_named() -> None:
    with EmbeddingCacheClient(NOWHERE) as client, pytest.raises(ServerUnreachable, match=":1"):
        client.encode_prompts(PromptsCall(prompts=["a"]))


def test_read_of_a_server_that_does_not_answer_is_an_error() -> None:
    with EmbeddingCacheClient(NOWHERE) as client, pytest.raises(ServerUnreachable):
        list(client.read([KEY]))


def test_read_ahead_of_a_server_that_does_not_answer_is_an_error() -> None:
    with EmbeddingCacheClient(NOWHERE) as client, pytest.raises(ServerUnreachable):
        list(client.read_in_order([KEY]))


def test_value_that_no_message_holds_is_refused_before_anything_is_sent() -> None:
    with EmbeddingCacheClient(NOWHERE) as client, pytest.raises(InvalidRequest, match="stage"):
        client.encode_prompts(PromptsCall(prompts=["a"], stage="middle"))

"""Both clients of training where no server answers; with one, see ``training/test_service``."""

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.training import AsyncTrainingClient, TrainingClient
from diptych.clients.training_values import JobCall
from diptych.errors import InvalidRequest, ServerUnreachable
from diptych.rpc.channel import ChannelConfig

NOWHERE = ClientConfig(channel=ChannelConfig(address="127.0.0.1:1", max_attempts=1), timeout_s=5.0)


def test_server_that_does_not_answer_is_named() -> None:
    with TrainingClient(NOWHERE) as client, pytest.raises(ServerUnreachable, match=":1"):
        client.get("j")


def test_watch_gives_up_after_its_patience() -> None:
    with TrainingClient(NOWHERE) as client, pytest.raises(ServerUnreachable):
        list(client.watch("j", patience_s=0.2))


async def test_asyncio_client_raises_the_same() -> None:
    async with AsyncTrainingClient(NOWHERE) as client:
        with pytest.raises(ServerUnreachable):
            await client.get("j")
        with pytest.raises(ServerUnreachable):
            [event async for event in client.watch("j", patience_s=0.2)]


def test_spec_that_no_message_holds_is_refused_before_anything_is_sent() -> None:
    with TrainingClient(NOWHERE) as client, pytest.raises(InvalidRequest, match="spec"):
        client.create(JobCall(spec="\ud800"))

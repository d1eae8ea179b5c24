"""A value that no message holds is refused by its name."""

import pytest
from google.protobuf.message import Message

from diptych.clients.message_fields import INT32, check_size, chosen, integer, sendable
from diptych.errors import InvalidRequest
from diptych.v1 import embedding_cache_pb2 as pb


def test_choice_is_looked_up() -> None:
    assert chosen("stage", "base", {None: 0, "base": 1}) == 1


def test_unknown_choice_names_field_and_choices() -> None:
    with pytest.raises(InvalidRequest, match="stage: 'bose' is none of base"):
        chosen("stage", "bose", {None: 0, "base": 1})


@pytest.mark.parametrize("value", [-INT32, INT32 - 1])
def test_integer_within_its_bits_is_taken(value: int) -> None:
    assert integer("rank", value, INT32) == value


@pytest.mark.parametrize("value", [-INT32 - 1, INT32])
def test_integer_beyond_its_bits_is_refused(value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"rank: {value} is not in"):
        integer("rank", value, INT32)


def texts(*sizes: int) -> pb.EncodePromptsRequest:
    return pb.EncodePromptsRequest(prompts=[pb.PromptInput(text="x" * size) for size in sizes])


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (texts(9, 200), r"prompts\[1\]\.text"),
        (texts(60, 60, 60), "prompts"),
        (pb.WarmDatasetRequest(manifest="x" * 200, stages=[pb.ENCODER_STAGE_BASE]), "manifest"),
        (pb.FindMissingRequest(keys=[bytes(32)] * 5), "keys"),
    ],
)
def test_what_is_too_large_in_a_message_is_named(message: Message, field: str) -> None:
    size = message.ByteSize()
    with pytest.raises(InvalidRequest, match=f"{field}: {size} bytes exceed the limit of 100"):
        check_size(message, 100)


def test_messages_that_fit_are_sent_up_to_one_that_does_not() -> None:
    sent = sendable([texts(9), texts(200)], 100)
    assert next(sent) == texts(9)
    with pytest.raises(InvalidRequest, match="prompts"):
        next(sent)

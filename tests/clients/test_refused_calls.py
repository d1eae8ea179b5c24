"""What is wrong with a call is told whole: what no message holds, and what the server finds."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from diptych import errors
from diptych.clients.calls import GenerateCall, ImageSource, RefineCall, Stage
from diptych.clients.events import Picture
from diptych.clients.inference import AsyncInferenceClient, ClientConfig, InferenceClient
from diptych.rpc.channel import ChannelConfig

STAGE = Stage(prompt="a pear")
GENERATE = GenerateCall(base=STAGE)
REFINE = RefineCall(refiner=STAGE, source=ImageSource(data=b"png"))


def paint_call(config: ClientConfig, call: GenerateCall) -> list[Picture]:
    with InferenceClient(config) as client:
        return client.generate_images(call)


def paint_call_in_a_loop(config: ClientConfig, call: GenerateCall) -> list[Picture]:
    async def paint() -> list[Picture]:
        async with AsyncInferenceClient(config) as client:
            return await client.generate_images(call)

    return asyncio.run(paint())


def check(config: ClientConfig, call: Any) -> tuple[errors.FieldViolation, ...]:
    with InferenceClient(config) as client:
        return client.check(call)


def check_in_a_loop(config: ClientConfig, call: Any) -> tuple[errors.FieldViolation, ...]:
    async def ask() -> tuple[errors.FieldViolation, ...]:
        async with AsyncInferenceClient(config) as client:
            return await client.check(call)

    return asyncio.run(ask())


def both(synchronous: Any, asynchronous: Any) -> pytest.MarkDecorator:
    """Run a test once with each client."""
    return pytest.mark.parametrize("act", [synchronous, asynchronous], ids=["sync", "asyncio"])


@both(paint_call, paint_call_in_a_loop)
def test_value_no_message_holds_is_refused_with_all_that_the_server_finds(
    act: Callable[..., Any], config: ClientConfig, script: Any
) -> None:
    script.error = errors.InvalidRequest(
        [errors.FieldViolation(field=field, description="bad") for field in ("output", "width")]
    )
    with pytest.raises(errors.InvalidRequest, match=r"^output: 'gif' is none of .*; width: bad$"):
        act(config, dataclasses.replace(GENERATE, output="gif"))


@both(paint_call, paint_call_in_a_loop)
def test_value_no_message_holds_is_refused_where_no_server_answers(
    act: Callable[..., Any], free_port: int
) -> None:
    channel = ChannelConfig(address=f"127.0.0.1:{free_port}", max_attempts=1)
    with pytest.raises(errors.InvalidRequest, match="output: 'gif' is none of"):
        act(
            ClientConfig(channel=channel, timeout_s=20.0),
            dataclasses.replace(GENERATE, output="gif"),
        )


@both(check, check_in_a_loop)
def test_checking_a_call_tells_what_is_wrong_with_it(
    act: Callable[..., Any], config: ClientConfig, script: Any
) -> None:
    script.error = errors.InvalidRequest(
        [errors.FieldViolation(field="image.data", description="bad")]
    )
    assert [violation.field for violation in act(config, REFINE)] == ["image.data"]


@both(check, check_in_a_loop)
def test_checking_a_call_asks_for_what_no_server_paints(
    act: Callable[..., Any], config: ClientConfig, script: Any
) -> None:
    script.error = errors.InvalidRequest([errors.FieldViolation(field="output", description="bad")])
    found = act(config, GENERATE)
    assert (found, script.requests[0].output) == ((), -1)

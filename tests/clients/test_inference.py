"""Both clients against a real server: pictures, errors, names, deadlines, cancelling, retries."""

import asyncio
import dataclasses
import hashlib
import math
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from diptych import errors
from diptych.clients.calls import GenerateCall, ImageSource, RefineCall, Stage
from diptych.clients.events import Completed, Event, Picture, Queued, Started
from diptych.clients.inference import AsyncInferenceClient, ClientConfig, InferenceClient
from diptych.rpc.channel import ChannelConfig

STAGE = Stage(prompt="a pear")
GENERATE = GenerateCall(base=STAGE)
REFINE = RefineCall(refiner=STAGE, source=ImageSource(data=b"png"))


def paint(config: ClientConfig, **options: Any) -> list[Picture]:
    with InferenceClient(config) as client:
        return client.generate_images(GENERATE, **options)


def paint_in_a_loop(config: ClientConfig, **options: Any) -> list[Picture]:
    async def call() -> list[Picture]:
        async with AsyncInferenceClient(config) as client:
            return await client.generate_images(GENERATE, **options)

    return asyncio.run(call())


def events_of(config: ClientConfig) -> list[Event]:
    with InferenceClient(config) as client:
        return [*client.generate(GENERATE), *client.refine(REFINE)]


def events_of_in_a_loop(config: ClientConfig) -> list[Event]:
    async def call() -> list[Event]:
        async with AsyncInferenceClient(config) as client:
            generated = [event async for event in client.generate(GENERATE)]
            return generated + [event async for event in client.refine(REFINE)]

    return asyncio.run(call())


def refine(config: ClientConfig) -> list[Picture]:
    with InferenceClient(config) as client:
        return client.refine_images(REFINE)


def refine_in_a_loop(config: ClientConfig) -> list[Picture]:
    async def call() -> list[Picture]:
        async with AsyncInferenceClient(config) as client:
            return await client.refine_images(REFINE)

    return asyncio.run(call())


def version(config: ClientConfig) -> str:
    with InferenceClient(config) as client:
        return client.get_capabilities().version


def version_in_a_loop(config: ClientConfig) -> str:
    async def call() -> str:
        async with AsyncInferenceClient(config) as client:
            return (await client.get_capabilities()).version

    return asyncio.run(call())


def leave_early(config: ClientConfig) -> None:
    with InferenceClient(config) as client:
        events: Any = client.generate(GENERATE)
        next(events)
        events.close()


def leave_early_in_a_loop(config: ClientConfig) -> None:
    async def call() -> None:
        async with AsyncInferenceClient(config) as client:
            events: Any = client.generate(GENERATE)
            await anext(events)
            await events.aclose()

    asyncio.run(call())


def wait(config: ClientConfig, timeout_s: float) -> None:
    with InferenceClient(config) as client:
        client.wait_until_ready(timeout_s=timeout_s)


def wait_in_a_loop(config: ClientConfig, timeout_s: float) -> None:
    async def call() -> None:
        async with AsyncInferenceClient(config) as client:
            await client.wait_until_ready(timeout_s=timeout_s)

    asyncio.run(call())


def both(synchronous: Any, asynchronous: Any) -> pytest.MarkDecorator:
    """Run a test once with each client."""
    return pytest.mark.parametrize("act", [synchronous, asynchronous], ids=["sync", "asyncio"])


@both(events_of, events_of_in_a_loop)
def test_events_arrive_in_order(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(0))
    one_call = [Queued, Started, Picture, Completed]
    assert [type(event) for event in act(config)] == one_call + one_call


@both(paint, paint_in_a_loop)
def test_images_come_in_order_of_their_index(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(1, b"second"), image(0, b"first"))
    assert [picture.data for picture in act(config)] == [b"first", b"second"]


@both(paint, paint_in_a_loop)
@pytest.mark.parametrize("timeout_s", [1e300, math.inf])
def test_deadline_beyond_every_clock_is_none(
    act: Callable[..., Any],
    timeout_s: float,
    config: ClientConfig,
    script: Any,
    stream: Any,
    image: Any,
) -> None:
    script.events = stream(image(0, b"first"))
    assert [picture.data for picture in act(config, timeout_s=timeout_s)] == [b"first"]


@both(refine, refine_in_a_loop)
def test_refined_images_come_in_order_of_their_index(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(1, b"second"), image(0, b"first"))
    assert [picture.data for picture in act(config)] == [b"first", b"second"]


@both(paint, paint_in_a_loop)
def test_image_larger_than_a_message_arrives_whole(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    data = bytes(range(256)) * 4096 * 6
    script.events = stream(image(0, data, piece_bytes=1024 * 1024))
    (picture,) = act(config)
    assert hashlib.sha256(picture.data).digest() == hashlib.sha256(data).digest()


@both(version, version_in_a_loop)
def test_capabilities_are_read(act: Callable[..., Any], config: ClientConfig) -> None:
    assert act(config) == "0.1.0"


@both(paint, paint_in_a_loop)
def test_error_of_the_server_is_raised_as_itself(
    act: Callable[..., Any], config: ClientConfig, script: Any
) -> None:
    violation = errors.FieldViolation(field="width", description="100 is not a multiple of 8")
    script.error = errors.InvalidRequest([violation])
    with pytest.raises(errors.InvalidRequest) as caught:
        act(config)
    assert caught.value.violations == (violation,)


@both(paint, paint_in_a_loop)
def test_error_after_some_events_is_raised(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any
) -> None:
    script.events, script.error = stream()[:2], errors.EngineFault("row")
    with pytest.raises(errors.EngineFault):
        act(config)


@both(paint, paint_in_a_loop)
def test_stream_that_breaks_off_is_corrupt(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(0))[:-1]
    with pytest.raises(errors.ResponseCorrupt, match="broke off"):
        act(config)


@both(paint, paint_in_a_loop)
def test_call_without_a_name_gets_one(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(0))
    act(config)
    name = script.requests[0].request_id
    assert str(uuid.UUID(name)) == name


@both(paint, paint_in_a_loop)
def test_name_of_the_request_is_also_in_the_metadata(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(0))
    act(config)
    assert script.metadata[0]["x-request-id"] == script.requests[0].request_id


def test_name_that_the_caller_chose_is_kept(
    config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(0))
    with InferenceClient(config) as client:
        client.generate_images(dataclasses.replace(GENERATE, request_id="mine"))
    assert script.requests[0].request_id == "mine"


@both(paint, paint_in_a_loop)
def test_call_that_was_refused_for_now_is_repeated_by_the_same_name(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any, image: Any
) -> None:
    script.events = stream(image(0))
    script.error, script.num_refusals = errors.Draining(retry_after_s=0.02), 2
    act(config)
    assert len(script.requests) == 3
    assert len({request.request_id for request in script.requests}) == 1


@both(version, version_in_a_loop)
def test_token_is_sent_with_every_call(
    act: Callable[..., Any], config: ClientConfig, script: Any
) -> None:
    act(dataclasses.replace(config, token="secret"))
    assert script.metadata[0]["authorization"] == "Bearer secret"


@both(version, version_in_a_loop)
def test_no_token_sends_no_authorization(
    act: Callable[..., Any], config: ClientConfig, script: Any
) -> None:
    act(config)
    assert "authorization" not in script.metadata[0]


@both(paint, paint_in_a_loop)
def test_deadline_of_the_call_ends_it(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any
) -> None:
    script.events, script.hang = stream()[:2], True
    with pytest.raises(errors.DeadlinePassed):
        act(config, timeout_s=0.3)


@both(paint, paint_in_a_loop)
def test_deadline_of_the_client_ends_a_call_without_one(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any
) -> None:
    script.events, script.hang = stream()[:2], True
    with pytest.raises(errors.DeadlineExceeded):
        act(dataclasses.replace(config, timeout_s=0.3))


@both(leave_early, leave_early_in_a_loop)
def test_leaving_early_cancels_the_call_on_the_server(
    act: Callable[..., Any], config: ClientConfig, script: Any, stream: Any
) -> None:
    script.events, script.hang = stream()[:2], True
    act(config)
    assert script.left.wait(timeout=30)


async def test_cancelled_task_cancels_the_call_on_the_server(
    config: ClientConfig, script: Any, stream: Any
) -> None:
    script.events, script.hang = stream()[:2], True
    async with AsyncInferenceClient(config) as client:
        task = asyncio.create_task(client.generate_images(GENERATE))
        await asyncio.to_thread(script.begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(script.left.wait, 30)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:1"])
@both(version, version_in_a_loop)
def test_address_without_a_server_is_unavailable(
    act: Callable[..., Any], address: str, free_port: int
) -> None:
    channel = ChannelConfig(address=address.format(port=free_port), max_attempts=2)
    with pytest.raises(errors.ServerUnreachable) as caught:
        act(ClientConfig(channel=channel, timeout_s=20.0))
    assert isinstance(caught.value, errors.Unavailable)


@both(paint, paint_in_a_loop)
def test_streaming_from_an_address_without_a_server_is_unavailable(
    act: Callable[..., Any], free_port: int
) -> None:
    channel = ChannelConfig(address=f"127.0.0.1:{free_port}", max_attempts=1)
    with pytest.raises(errors.ServerUnreachable, match=str(free_port)):
        act(ClientConfig(channel=channel, timeout_s=20.0))


@both(wait, wait_in_a_loop)
def test_waiting_for_a_ready_server_returns(
    act: Callable[..., Any], config: ClientConfig, running: Any
) -> None:
    running.set_ready()
    act(config, 30.0)


@both(wait, wait_in_a_loop)
def test_waiting_returns_when_the_server_becomes_ready(
    act: Callable[..., Any], config: ClientConfig, running: Any
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(act, config, 30.0)
        running.set_ready()
        waiting.result(timeout=30)


@both(wait, wait_in_a_loop)
def test_waiting_for_a_server_that_does_not_get_ready_ends(
    act: Callable[..., Any], config: ClientConfig
) -> None:
    with pytest.raises(errors.ServerUnreachable, match=r"not ready within 0\.3 s"):
        act(config, 0.3)

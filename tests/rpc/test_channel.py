"""Channels retry what may be retried, and nothing else."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from diptych.errors import Draining, EngineFault
from diptych.rpc.channel import ChannelConfig, channel_options, open_channel, service_config
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

STARTED = pb.GenerateResponse(event=pb.ImageEvent(started=pb.Started()))


class Failing:
    """A behaviour that raises ``error`` a number of times and then answers."""

    def __init__(self, error: Exception, num_failures: int) -> None:
        self.error, self.left, self.num_calls = error, num_failures, 0

    async def __call__(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        self.num_calls += 1
        if self.num_calls <= self.left:
            raise self.error
        yield STARTED


async def answer(port: int, connect: Any, *, max_attempts: int) -> pb.GenerateResponse:
    channel = await connect(port, max_attempts=max_attempts)
    return await anext(aiter(pb_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest())))


async def test_unavailable_call_is_tried_again(serve: Any, connect: Any) -> None:
    failing = Failing(Draining(retry_after_s=0.05), num_failures=2)
    server = await serve(failing)
    assert await answer(server.port, connect, max_attempts=4) == STARTED


async def test_call_is_tried_no_more_often_than_configured(serve: Any, connect: Any) -> None:
    failing = Failing(Draining(retry_after_s=0.01), num_failures=9)
    server = await serve(failing)
    with pytest.raises(grpc.aio.AioRpcError):
        await answer(server.port, connect, max_attempts=3)
    assert failing.num_calls == 3


async def test_internal_error_is_not_tried_again(serve: Any, connect: Any) -> None:
    failing = Failing(EngineFault("row"), num_failures=1)
    server = await serve(failing)
    with pytest.raises(grpc.aio.AioRpcError):
        await answer(server.port, connect, max_attempts=4)
    assert failing.num_calls == 1


def test_single_attempt_means_no_retry_policy() -> None:
    config = service_config(ChannelConfig(address="localhost:1", max_attempts=1))
    assert config["methodConfig"] == [{"name": [{}]}]


def test_replicas_behind_a_name_are_spread_over_when_ready() -> None:
    config = service_config(ChannelConfig(address="dns:///inference:50051"))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": "readiness"}


def test_single_server_is_not_balanced() -> None:
    assert "loadBalancingConfig" not in service_config(ChannelConfig(address="localhost:1"))


def test_options_hold_the_service_config_as_json() -> None:
    config = ChannelConfig(address="localhost:1")
    assert json.loads(str(dict(channel_options(config))["grpc.service_config"])) == service_config(
        config
    )


def test_channel_with_credentials_does_not_speak_plaintext(free_port: int) -> None:
    config = ChannelConfig(
        address=f"127.0.0.1:{free_port}",
        credentials=grpc.ssl_channel_credentials(),
        max_attempts=1,
    )
    with open_channel(config) as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.InferenceServiceStub(channel).GetCapabilities(
            pb.GetCapabilitiesRequest(), timeout=5
        )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

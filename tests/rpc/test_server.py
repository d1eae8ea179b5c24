"""A server that answers probes, describes itself, keeps its limits and leaves politely."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from diptych.errors import Draining, SettingInvalid
from diptych.rpc.auth import TokenFile
from diptych.rpc.server import Probe, RpcServer, ServerConfig
from diptych.rpc.status import from_rpc_error
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STARTED = pb.GenerateResponse(event=pb.ImageEvent(started=pb.Started()))


async def health(channel: grpc.aio.Channel, service: str) -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service)
    )
    return int(answer.status)


async def described(channel: grpc.aio.Channel, **question: str) -> Any:
    """Ask the reflection service one question."""
    request = reflection_pb2.ServerReflectionRequest(**question)
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([request])
    )
    return await anext(aiter(answers))


@pytest.mark.parametrize(
    ("service", "status"),
    [
        ("startup", NOT_SERVING),
        ("readiness", NOT_SERVING),
        ("", NOT_SERVING),
        ("diptych.v1.InferenceService", NOT_SERVING),
        ("liveness", SERVING),
    ],
)
async def test_fresh_server_is_alive_but_not_ready(
    service: Any, status: Any, serve: Any, connect: Any
) -> None:
    server = await serve()
    assert await health(await connect(server.port), service) == status


@pytest.mark.parametrize("service", ["readiness", "", "diptych.v1.InferenceService"])
async def test_ready_server_says_so(service: Any, serve: Any, connect: Any) -> None:
    server = await serve()
    await server.set_health(Probe.READINESS, serving=True)
    assert await health(await connect(server.port), service) == SERVING


async def test_health_of_an_unknown_service_is_not_found(serve: Any, connect: Any) -> None:
    server = await serve()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(await connect(server.port), "elsewhere")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_probes_have_a_port_of_their_own(serve: Any, connect: Any) -> None:
    server = await serve(config=ServerConfig(port=0, health_port=0))
    await server.set_health(Probe.STARTUP, serving=True)
    assert await health(await connect(server.health_port), "startup") == SERVING


async def test_port_of_the_probes_serves_nothing_else(serve: Any, connect: Any) -> None:
    server = await serve(config=ServerConfig(port=0, health_port=0))
    stub = pb_grpc.InferenceServiceStub(await connect(server.health_port))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetCapabilities(pb.GetCapabilitiesRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_probes_need_no_token(serve: Any, connect: Any, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("")
    server = await serve(authenticate=TokenFile(tmp_path / "tokens"))
    assert await health(await connect(server.port), "liveness") == SERVING


async def test_reflection_names_the_services(serve: Any, connect: Any) -> None:
    server = await serve()
    answer = await described(await connect(server.port), list_services="")
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"diptych.v1.InferenceService", "grpc.health.v1.Health"}


async def test_reflection_describes_our_service(serve: Any, connect: Any) -> None:
    server = await serve()
    symbol = "diptych.v1.InferenceService"
    answer = await described(await connect(server.port), file_containing_symbol=symbol)
    assert answer.file_descriptor_response.file_descriptor_proto


async def test_message_over_the_limit_is_refused(serve: Any, connect: Any) -> None:
    server = await serve()
    channel = await connect(server.port, max_message_bytes=64 * 1024 * 1024)
    request = pb.GenerateRequest(solver="x" * (4 * 1024 * 1024))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(pb_grpc.InferenceServiceStub(channel).Generate(request)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_message_of_nearly_the_limit_passes(serve: Any, connect: Any) -> None:
    server = await serve()
    request = pb.GenerateRequest(solver="x" * (4 * 1024 * 1024 - 64))
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    assert await anext(aiter(stub.Generate(request))) == STARTED


class Slow:
    """A behaviour that answers once, and ends when it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        yield STARTED
        await self.let_go.wait()
        yield STARTED


async def test_draining_server_is_not_ready(serve: Any, connect: Any) -> None:
    server = await serve()
    await server.set_health(Probe.READINESS, serving=True)
    await server.begin_drain()
    assert await health(await connect(server.port), "readiness") == NOT_SERVING


async def test_draining_server_is_still_alive(serve: Any, connect: Any) -> None:
    server = await serve()
    await server.begin_drain()
    assert await health(await connect(server.port), "liveness") == SERVING


async def test_draining_server_refuses_new_calls(serve: Any, connect: Any) -> None:
    server = await serve()
    await server.begin_drain()
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetCapabilities(pb.GetCapabilitiesRequest())
    assert isinstance(from_rpc_error(caught.value, address="", request_id=""), Draining)


async def test_call_that_runs_may_finish_while_the_server_stops(serve: Any, connect: Any) -> None:
    slow = Slow()
    server = await serve(slow)
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    answers = aiter(stub.Generate(pb.GenerateRequest()))
    await anext(answers)
    stopping = asyncio.create_task(server.stop(grace_s=60.0))
    await asyncio.sleep(0)
    slow.let_go.set()
    rest = [answer async for answer in answers]
    await stopping
    assert rest == [STARTED]


async def test_call_that_outlasts_the_grace_is_handed_back(serve: Any, connect: Any) -> None:
    slow = Slow()
    server = await serve(slow)
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    answers = aiter(stub.Generate(pb.GenerateRequest()))
    await anext(answers)
    stopping = asyncio.create_task(server.stop(grace_s=0.0))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(answers)
    await stopping
    found = from_rpc_error(caught.value, address="", request_id="")
    assert (type(found), found.retry_after_s) == (Draining, 1.0)


async def test_stopping_twice_is_stopping_once(serve: Any) -> None:
    server = await serve()
    await server.stop(grace_s=0.0)
    await server.stop(grace_s=0.0)


async def test_running_calls_are_counted(serve: Any, connect: Any) -> None:
    slow = Slow()
    server = await serve(slow)
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    await anext(aiter(stub.Generate(pb.GenerateRequest())))
    assert server.num_running == 1


@pytest.mark.parametrize("field", ["port", "health_port"])
async def test_port_that_is_taken_is_a_bad_setting(field: str, serve: Any) -> None:
    server = await serve()
    config = ServerConfig(**{"port": 0, field: server.port})
    with pytest.raises(SettingInvalid) as caught:
        await RpcServer(config).start()
    assert [violation.field for violation in caught.value.violations] == [field]

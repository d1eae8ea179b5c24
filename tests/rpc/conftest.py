"""A real server on a free loopback port whose behaviour a test writes as one generator."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from typing_extensions import override

from diptych.rpc.channel import ChannelConfig, open_async_channel
from diptych.rpc.server import RpcServer, ServerConfig
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

Behaviour = Callable[[pb.GenerateRequest, Any], AsyncGenerator[pb.GenerateResponse]]
Serve = Callable[..., Awaitable[RpcServer]]
Connect = Callable[..., Any]


class Scripted(pb_grpc.InferenceServiceServicer):
    """Answers Generate with what the test's generator yields; Refine is not implemented."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    @override
    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        async with contextlib.aclosing(self.behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    @override
    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Any
    ) -> pb.GetCapabilitiesResponse:
        return pb.GetCapabilitiesResponse(version="0.1.0")


async def one_started(request: pb.GenerateRequest, context: Any) -> AsyncGenerator[Any]:
    yield pb.GenerateResponse(event=pb.ImageEvent(started=pb.Started()))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened, the newest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: AsyncExitStack) -> Serve:
    """Start a server around ``behaviour``; keywords go to ``RpcServer`` and ``ServerConfig``."""

    async def start(
        behaviour: Behaviour = one_started, config: ServerConfig | None = None, **keywords: Any
    ) -> RpcServer:
        server = RpcServer(config or ServerConfig(port=0), **keywords)
        server.add_service(
            "diptych.v1.InferenceService",
            Scripted(behaviour),  # type: ignore[abstract] # Refine stays unimplemented
            pb_grpc.add_InferenceServiceServicer_to_server,
        )
        return await stack.enter_async_context(server)

    return start


@pytest.fixture
def connect(stack: AsyncExitStack) -> Connect:
    """Open a channel to a server's port, without retries unless asked for."""

    async def open_to(port: int, **keywords: Any) -> grpc.aio.Channel:
        config = ChannelConfig(address=f"127.0.0.1:{port}", **{"max_attempts": 1, **keywords})
        return await stack.enter_async_context(open_async_channel(config))

    return open_to

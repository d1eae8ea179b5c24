"""A real server in a thread of its own whose answers a test writes down as messages."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from typing_extensions import override

from diptych.clients.inference import ClientConfig
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.server import Probe, RpcServer, ServerConfig
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

PNG = bytes(range(256)) * 8


def an_image(index: int, data: bytes = PNG, piece_bytes: int = 1000) -> list[pb.ImageEvent]:
    """Return the messages of one image: its header and its bytes in pieces."""
    header = pb.ImageHeader(
        image_index=index,
        seed=7 + index,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).digest(),
        media_type="image/png",
        width=128,
        height=64,
    )
    pieces = [
        pb.ImageChunk(image_index=index, offset_bytes=at, data=data[at : at + piece_bytes])
        for at in range(0, len(data), piece_bytes)
    ]
    return [pb.ImageEvent(image_header=header), *(pb.ImageEvent(image_chunk=p) for p in pieces)]


def a_stream(*images: list[pb.ImageEvent]) -> list[pb.ImageEvent]:
    """Return a whole stream that delivers ``images``."""
    resolved = pb.Resolved(request_id="r", seed=7, num_images=len(images), num_steps=4)
    return [
        pb.ImageEvent(queued=pb.Queued(resolved=resolved)),
        pb.ImageEvent(started=pb.Started()),
        *(message for image in images for message in image),
        pb.ImageEvent(completed=pb.Completed(request_id="r")),
    ]


@dataclass(slots=True, kw_only=True)
class Script(pb_grpc.InferenceServiceServicer):
    """What the server answers, and what it saw; a test may change it between calls."""

    events: Sequence[pb.ImageEvent] = ()
    error: Exception | None = None
    """Raised after ``events``, or before them by the first ``num_refusals`` calls."""
    num_refusals: int = 0
    hang: bool = False
    """Never end, after ``events``."""
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    """Set when a handler has begun."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a handler has ended, however."""

    async def _answer(self, request: Any, context: Any) -> AsyncIterator[pb.ImageEvent]:
        self.requests.append(request)
        self.begun.set()
        self.metadata.append({str(k): v for k, v in context.invocation_metadata()})
        try:
            if self.error is not None and len(self.requests) <= self.num_refusals:
                raise self.error
            for event in self.events:
                yield event
            if self.error is not None and not self.num_refusals:
                raise self.error
            if self.hang:
                await asyncio.Event().wait()
        finally:
            self.left.set()

    @override
    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[Any]:
        async for event in self._answer(request, context):
            yield pb.GenerateResponse(event=event)

    @override
    async def Refine(self, request: pb.RefineRequest, context: Any) -> AsyncIterator[Any]:
        async for event in self._answer(request, context):
            yield pb.RefineResponse(event=event)

    @override
    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Any
    ) -> pb.GetCapabilitiesResponse:
        self.metadata.append({str(k): v for k, v in context.invocation_metadata()})
        return pb.GetCapabilitiesResponse(version="0.1.0", solvers=["euler"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that runs in another thread, with its loop."""

    server: RpcServer
    loop: asyncio.AbstractEventLoop

    def run(self, awaitable: Awaitable[None]) -> None:
        """Await something in the server's loop."""
        asyncio.run_coroutine_threadsafe(_as_coroutine(awaitable), self.loop).result(timeout=30)

    def set_ready(self) -> None:
        """Turn readiness on."""
        self.run(self.server.set_health(Probe.READINESS, serving=True))


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def running(script: Script) -> Iterator[Running]:
    """Serve ``script`` in a thread, as a synchronous client needs it."""
    started: list[Running] = []
    ready, stop = threading.Event(), []

    async def main() -> None:
        server = RpcServer(ServerConfig(port=0))
        register = pb_grpc.add_InferenceServiceServicer_to_server
        server.add_service("diptych.v1.InferenceService", script, register)
        async with server:
            ended = asyncio.Event()
            stop.append(ended.set)
            started.append(Running(server=server, loop=asyncio.get_running_loop()))
            ready.set()
            await ended.wait()

    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(asyncio.run, main())
        assert ready.wait(timeout=30)
        yield started[0]
        started[0].loop.call_soon_threadsafe(stop[0])
        ending.result(timeout=30)


@pytest.fixture
def config(running: Running) -> ClientConfig:
    """Return how to reach the running server."""
    channel = ChannelConfig(address=f"127.0.0.1:{running.server.port}")
    return ClientConfig(channel=channel, timeout_s=30.0)


@pytest.fixture
def image() -> Callable[..., list[pb.ImageEvent]]:
    return an_image


@pytest.fixture
def stream() -> Callable[..., list[pb.ImageEvent]]:
    return a_stream

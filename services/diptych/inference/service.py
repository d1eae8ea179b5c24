"""The gRPC face of the engine: messages in, a stream of messages out, one request per call."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

import grpc
from typing_extensions import override

from diptych.errors import Starting
from diptych.inference.engine import Ticket
from diptych.inference.hosted import Hosted
from diptych.inference.orders import AdapterWish
from diptych.inference.replies import capabilities, event_messages
from diptych.inference.stream import EventStream
from diptych.inference.trajectory import (
    AdapterUse,
    Completed,
    Event,
    Expert,
    ImageReady,
    ImageRequest,
    Listener,
)
from diptych.inference.wire import generate_request, refine_request, request_id_of, wishes_of
from diptych.rpc.interceptors import current_caller
from diptych.telemetry.logging import bind
from diptych.telemetry.tracing import NullTracer, Tracer
from diptych.v1 import inference_pb2, inference_pb2_grpc

__all__ = [
    "SERVICE_NAME",
    "Hosting",
    "InferenceService",
    "OnImage",
    "Peer",
    "Resolves",
    "Submits",
]

SERVICE_NAME: Final = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]
Message = TypeVar("Message", inference_pb2.GenerateRequest, inference_pb2.RefineRequest)
OnImage = Callable[[str], None]
"""Told the format of each delivered image."""
Run = Callable[[ImageRequest], AsyncGenerator[Event]]
"""Carries a request out on this server's engine."""


class Submits(Protocol):
    """The engine, as far as a call needs it."""

    def submit(self, request: ImageRequest, listener: Listener) -> Ticket:
        """Admit ``request`` or raise why not; its events go to ``listener``."""


class Resolves(Protocol):
    """The catalogue of adapters, as far as a call needs it."""

    def resolve(
        self, wishes: Sequence[AdapterWish], *, tenant: str, experts: frozenset[Expert]
    ) -> tuple[AdapterUse, ...]:
        """Return what a request that runs ``experts`` does with its adapters, or raise why not."""


class Peer(Protocol):
    """The server that hosts the refiner when this one does not."""

    def paint(self, request: ImageRequest, run: Run) -> AsyncGenerator[Event]:
        """Yield the events of ``request``: its base part by ``run``, the rest at the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What there is once weights are loaded and warm."""

    engine: Submits
    hosted: Hosted
    catalog: Resolves
    peer: Peer | None = None


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Serves one engine; before ``open`` every call is refused with ``Starting``.

    Belongs to one event loop. Errors leave as ``DiptychError``; the interceptor of ``rpc`` turns
    them into statuses.
    """

    def __init__(
        self,
        *,
        tracer: Tracer | None = None,
        on_image: OnImage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``clock`` is the engine's, on which deadlines are told."""
        self._tracer = tracer or NullTracer()
        self._on_image = on_image
        self._clock = clock
        self._hosting: Hosting | None = None

    def open(self, hosting: Hosting) -> None:
        """Begin to serve."""
        self._hosting = hosting

    @override
    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Paint pictures from prompts."""
        async with contextlib.aclosing(self._serve(request, context, generate_request)) as events:
            async for event in events:
                yield inference_pb2.GenerateResponse(event=event)

    @override
    async def Refine(
        self, request: inference_pb2.RefineRequest, context: Context
    ) -> AsyncIterator[inference_pb2.RefineResponse]:
        """Run the refiner alone."""
        async with contextlib.aclosing(self._serve(request, context, refine_request)) as events:
            async for event in events:
                yield inference_pb2.RefineResponse(event=event)

    @override
    async def GetCapabilities(
        self, request: inference_pb2.GetCapabilitiesRequest, context: Context
    ) -> inference_pb2.GetCapabilitiesResponse:
        """Say what this server can do."""
        return capabilities(self._opened().hosted)

    def _opened(self) -> Hosting:
        if self._hosting is None:
            raise Starting
        return self._hosting

    async def _serve(
        self, message: Message, context: Context, convert: Callable[..., ImageRequest]
    ) -> AsyncGenerator[inference_pb2.ImageEvent]:
        """Yield the messages of one call; leaving early gives its request up."""
        hosting = self._opened()
        request_id = request_id_of(message)
        attributes = {"request_id": request_id}
        name = type(message).__name__.removesuffix("Request")
        with (
            bind(request_id=request_id),
            self._tracer.request(name, attributes=attributes, headers=_headers(context)) as span,
        ):
            deadline = self._deadline(context)
            request = await asyncio.to_thread(
                convert, message, hosting.hosted, request_id=request_id
            )
            adapters = await self._adapters(message, request, hosting)
            request = dataclasses.replace(
                request, deadline=deadline, adapters=adapters, tenant=current_caller().tenant
            )
            async with contextlib.aclosing(self._paint(request, hosting)) as events:
                async for event in events:
                    for reply in event_messages(event, request, hosting.hosted):
                        yield reply
                    if isinstance(event, ImageReady) and self._on_image is not None:
                        self._on_image(request.output)
                    if isinstance(event, Completed):
                        times = dataclasses.asdict(event.timings).items()
                        seconds = {k.removesuffix("_s"): v for k, v in times if k.endswith("_s")}
                        span.stages(seconds)

    async def _adapters(
        self, message: Message, request: ImageRequest, hosting: Hosting
    ) -> tuple[AdapterUse, ...]:
        """Return the request's adapters; what their names mean is settled here for good."""
        wishes = wishes_of(message, hosting.hosted)
        if not wishes:
            return ()
        stages = {Expert.BASE: request.base, Expert.REFINER: request.refiner}
        return await asyncio.to_thread(
            hosting.catalog.resolve,
            wishes,
            tenant=current_caller().tenant,
            experts=frozenset(expert for expert, stage in stages.items() if stage is not None),
        )

    def _paint(self, request: ImageRequest, hosting: Hosting) -> AsyncGenerator[Event]:
        """Yield the events of ``request``, whoever does its parts."""

        def run(part: ImageRequest) -> AsyncGenerator[Event]:
            return _run(hosting.engine, part)

        both = request.base is not None and request.refiner is not None
        if both and hosting.peer is not None:
            return hosting.peer.paint(request, run)
        return run(request)

    def _deadline(self, context: Context) -> float | None:
        """Return the caller's deadline on the engine's clock, None where there is none."""
        remaining_s = cast("float | None", context.time_remaining())
        return None if remaining_s is None else self._clock() + remaining_s


async def _run(engine: Submits, request: ImageRequest) -> AsyncGenerator[Event]:
    """Yield what ``engine`` says of ``request``; leaving early cancels it."""
    stream = EventStream(asyncio.get_running_loop())
    ticket = await _submit(engine, request, stream.put)
    try:
        async for event in stream.events():
            yield event
    finally:
        ticket.cancel()


async def _submit(engine: Submits, request: ImageRequest, listener: Listener) -> Ticket:
    """Submit from a thread, since planning a request takes a while.

    A call that is cancelled meanwhile still learns its ticket, to give it back.
    """
    submitting = asyncio.ensure_future(asyncio.to_thread(engine.submit, request, listener))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(_give_back)
        raise


def _give_back(submitted: "asyncio.Future[Ticket]") -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result().cancel()


def _headers(context: Context) -> dict[str, str]:
    """Return the metadata that names the caller's trace."""
    pairs = context.invocation_metadata() or ()
    return {str(k): v for k, v in pairs if k == "traceparent" and isinstance(v, str)}

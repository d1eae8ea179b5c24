"""Clients of InferenceService: one synchronous, one asyncio, with the same methods.

Both raise the error the server raised, with its fields. Both draw a request id for a call that
has none, so that a call whose connection fails before the first answer is tried again and paints
the same pictures. Closing an iterator cancels its call.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, Self, TypeVar

import grpc

from diptych.clients.assembly import Assembler
from diptych.clients.calls import GenerateCall, RefineCall
from diptych.clients.capabilities import Capabilities, read_capabilities
from diptych.clients.config import ClientConfig, call_options, meaning
from diptych.clients.events import Event, Picture
from diptych.clients.readiness import wait_until_ready, wait_until_ready_async
from diptych.clients.requests import Draft, draft_generate, draft_refine
from diptych.errors import (
    DiptychError,
    FieldViolation,
    InvalidRequest,
)
from diptych.rpc.channel import open_async_channel, open_channel
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

__all__ = ["AsyncInferenceClient", "ClientConfig", "InferenceClient"]


Call = TypeVar("Call", GenerateCall, RefineCall)
Request = pb.GenerateRequest | pb.RefineRequest
AnyDraft = Draft[pb.GenerateRequest] | Draft[pb.RefineRequest]
Method = Callable[..., Any]


class InferenceClient:
    """A synchronous client; may be used from several threads. Close it, or use it in a ``with``."""

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_channel(config.channel)
        self._stub: Any = pb_grpc.InferenceServiceStub(self._channel)

    def generate(self, call: GenerateCall, *, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield what happens to ``call`` until its last image.

        Raises:
            DiptychError: what the server raised, or ``Unavailable`` if none answers; a call that
                no message can hold is refused with all that the server finds wrong beside it.
        """
        yield from self._paint(self._stub.Generate, draft_generate(_named(call)), timeout_s)

    def refine(self, call: RefineCall, *, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield what happens to ``call`` until its last image; raises as ``generate`` does."""
        yield from self._paint(self._stub.Refine, draft_refine(_named(call)), timeout_s)

    def generate_images(
        self, call: GenerateCall, *, timeout_s: float | None = None
    ) -> list[Picture]:
        """Return the finished images of ``call``, in order; raises as ``generate`` does."""
        return _pictures(list(self.generate(call, timeout_s=timeout_s)))

    def refine_images(self, call: RefineCall, *, timeout_s: float | None = None) -> list[Picture]:
        """Return the finished images of ``call``, in order; raises as ``generate`` does."""
        return _pictures(list(self.refine(call, timeout_s=timeout_s)))

    def check(
        self, call: GenerateCall | RefineCall, *, timeout_s: float | None = None
    ) -> tuple[FieldViolation, ...]:
        """Return what is wrong with the fields of ``call``; nothing is painted.

        Raises:
            DiptychError: the server cannot say, or another thing than a field stands against it.
        """
        method, draft = _drafted(self._stub, call)
        return self._check(method, draft, timeout_s)

    def get_capabilities(self, *, timeout_s: float | None = None) -> Capabilities:
        """Return what the server can do; raises as ``generate`` does."""
        request_id = str(uuid.uuid4())
        try:
            answer = self._stub.GetCapabilities(
                pb.GetCapabilitiesRequest(), **call_options(self._config, request_id, timeout_s)
            )
        except grpc.RpcError as error:
            raise meaning(error, self._config, request_id) from error
        return read_capabilities(answer)

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Return as soon as the server says it takes calls, connecting to it if need be.

        Raises:
            DiptychError: it did not say so within ``timeout_s``.
        """
        wait_until_ready(self._channel, self._config, timeout_s=timeout_s)

    def close(self) -> None:
        """Cancel what runs and disconnect."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _paint(self, method: Method, draft: AnyDraft, timeout_s: float | None) -> Iterator[Event]:
        """Yield the events of a drafted call, or refuse it with all that is wrong with it."""
        if draft.violations:
            found = draft.violations
            with contextlib.suppress(DiptychError):
                found = self._check(method, draft, timeout_s)
            raise InvalidRequest(found)
        yield from self._stream(method, draft.message, timeout_s)

    def _check(
        self, method: Method, draft: AnyDraft, timeout_s: float | None
    ) -> tuple[FieldViolation, ...]:
        try:
            for _ in self._stream(method, draft.checking(), timeout_s):
                pass
        except InvalidRequest as refused:
            return draft.found(refused.violations)
        return draft.violations

    def _stream(
        self,
        method: Method,
        request: Request,
        timeout_s: float | None,
    ) -> Iterator[Event]:
        """Yield the events of one call of ``method``; cancel it when the iterator is closed."""
        messages = method(request, **call_options(self._config, request.request_id, timeout_s))
        assembler = Assembler()
        try:
            for message in messages:
                event = assembler.feed(message.event)
                if event is not None:
                    yield event
        except grpc.RpcError as error:
            raise meaning(error, self._config, request.request_id) from error
        finally:
            messages.cancel()
        assembler.finish()


class AsyncInferenceClient:
    """An asyncio client of the loop it was made in. Close it, or use it in an ``async with``."""

    def __init__(self, config: ClientConfig, channel: grpc.aio.Channel | None = None) -> None:
        """Prepare to call as ``config`` says, over ``channel`` where another client has one."""
        self._config = config
        self._channel = channel or open_async_channel(config.channel)
        self._stub: Any = pb_grpc.InferenceServiceStub(self._channel)

    def acting_for(self, tenant: str) -> "AsyncInferenceClient":
        """Return this client as it calls for ``tenant``, over the same connection.

        A server that does not trust the owner of the token with that refuses its calls with
        ``TenantRefused``.
        """
        config = dataclasses.replace(self._config, tenant=tenant)
        return AsyncInferenceClient(config, self._channel)

    async def generate(
        self, call: GenerateCall, *, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Yield what happens to ``call`` until its last image.

        Raises:
            DiptychError: as the synchronous client's.
        """
        draft = draft_generate(_named(call))
        async with contextlib.aclosing(self._paint(self._stub.Generate, draft, timeout_s)) as it:
            async for event in it:
                yield event

    async def refine(
        self, call: RefineCall, *, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Yield what happens to ``call`` until its last image; raises as ``generate`` does."""
        draft = draft_refine(_named(call))
        async with contextlib.aclosing(self._paint(self._stub.Refine, draft, timeout_s)) as it:
            async for event in it:
                yield event

    async def generate_images(
        self, call: GenerateCall, *, timeout_s: float | None = None
    ) -> list[Picture]:
        """Return the finished images of ``call``, in order; raises as ``generate`` does."""
        return _pictures([event async for event in self.generate(call, timeout_s=timeout_s)])

    async def refine_images(
        self, call: RefineCall, *, timeout_s: float | None = None
    ) -> list[Picture]:
        """Return the finished images of ``call``, in order; raises as ``generate`` does."""
        return _pictures([event async for event in self.refine(call, timeout_s=timeout_s)])

    async def check(
        self, call: GenerateCall | RefineCall, *, timeout_s: float | None = None
    ) -> tuple[FieldViolation, ...]:
        """Return what is wrong with the fields of ``call``; raises as the synchronous client's."""
        method, draft = _drafted(self._stub, call)
        return await self._check(method, draft, timeout_s)

    async def get_capabilities(self, *, timeout_s: float | None = None) -> Capabilities:
        """Return what the server can do; raises as ``generate`` does."""
        request_id = str(uuid.uuid4())
        try:
            answer = await self._stub.GetCapabilities(
                pb.GetCapabilitiesRequest(), **call_options(self._config, request_id, timeout_s)
            )
        except grpc.RpcError as error:
            raise meaning(error, self._config, request_id) from error
        return read_capabilities(answer)

    async def wait_until_ready(self, *, timeout_s: float) -> None:
        """Return as soon as the server says it takes calls, connecting to it if need be.

        Raises:
            DiptychError: it did not say so within ``timeout_s``.
        """
        await wait_until_ready_async(self._channel, self._config, timeout_s=timeout_s)

    async def close(self) -> None:
        """Cancel what runs and disconnect."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _paint(
        self, method: Method, draft: AnyDraft, timeout_s: float | None
    ) -> AsyncGenerator[Event]:
        """Yield the events of a drafted call, or refuse it with all that is wrong with it."""
        if draft.violations:
            found = draft.violations
            with contextlib.suppress(DiptychError):
                found = await self._check(method, draft, timeout_s)
            raise InvalidRequest(found)
        async with contextlib.aclosing(self._stream(method, draft.message, timeout_s)) as events:
            async for event in events:
                yield event

    async def _check(
        self, method: Method, draft: AnyDraft, timeout_s: float | None
    ) -> tuple[FieldViolation, ...]:
        try:
            async for _ in self._stream(method, draft.checking(), timeout_s):
                pass
        except InvalidRequest as refused:
            return draft.found(refused.violations)
        return draft.violations

    async def _stream(
        self,
        method: Method,
        request: Request,
        timeout_s: float | None,
    ) -> AsyncGenerator[Event]:
        """Yield the events of one call of ``method``; cancel it when the iterator is closed."""
        messages = method(request, **call_options(self._config, request.request_id, timeout_s))
        assembler = Assembler()
        try:
            async for message in messages:
                event = assembler.feed(message.event)
                if event is not None:
                    yield event
        except grpc.RpcError as error:
            raise meaning(error, self._config, request.request_id) from error
        finally:
            messages.cancel()
        assembler.finish()


def _named(call: Call) -> Call:
    """Return ``call`` with a request id of its own."""
    return call if call.request_id else dataclasses.replace(call, request_id=str(uuid.uuid4()))


def _drafted(stub: Any, call: GenerateCall | RefineCall) -> tuple[Method, AnyDraft]:  # noqa: ANN401
    """Return the method of ``stub`` that ``call`` is for, and its message."""
    if isinstance(call, GenerateCall):
        return stub.Generate, draft_generate(_named(call))
    return stub.Refine, draft_refine(_named(call))


def _pictures(events: list[Event]) -> list[Picture]:
    """Return the images among ``events`` in order of their index."""
    found = [event for event in events if isinstance(event, Picture)]
    return sorted(found, key=lambda picture: picture.image_index)

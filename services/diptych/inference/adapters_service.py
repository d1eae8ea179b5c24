"""The gRPC face of the catalogue and of what is on the device; asyncio, work in threads."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import grpc
from typing_extensions import override

from diptych.errors import (
    AdapterInUse,
    DiptychError,
    FieldViolation,
    InvalidRequest,
    RequestCancelled,
    Starting,
)
from diptych.inference.adapters_wire import (
    adapter_info,
    checked_reference,
    export_format,
    import_order,
    listing_of,
    merge_order,
    merge_result,
    named_reference,
)
from diptych.inference.engine import EngineStats
from diptych.inference.limits import Limits
from diptych.inference.orders import (
    Catalog,
    ExportedFile,
    GoOn,
    ImportOrder,
    Incoming,
    MergeOrder,
    MergeOutcome,
    Shown,
    Upload,
)
from diptych.inference.pins import Pinned, PinTicket
from diptych.inference.trajectory import AdapterUse
from diptych.rpc.interceptors import current_caller
from diptych.v1 import adapters_pb2 as pb
from diptych.v1 import adapters_pb2_grpc

__all__ = ["ADAPTER_SERVICE_NAME", "AdapterService", "Pins"]

ADAPTER_SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["AdapterService"].full_name
NUM_THREADS: Final = 4
"""Calls whose work goes on at the same time; others wait."""

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")


class Pins(Protocol):
    """The engine, as far as this service needs it."""

    def load_adapter(self, use: AdapterUse, done: Pinned) -> PinTicket:
        """Bring an adapter to the device and keep it there, for its tenant."""

    def unload_adapter(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        """Let a tenant's kept adapter go."""

    def stats(self) -> EngineStats:
        """Count what it does."""


class AdapterService(adapters_pb2_grpc.AdapterServiceServicer):
    """Serves one catalogue; before ``open`` every call is refused with ``Starting``.

    Belongs to one event loop. Errors leave as ``DiptychError``; the interceptor of ``rpc`` turns
    them into statuses.
    """

    def __init__(self, limits: Limits) -> None:
        """Prepare; merges have a thread of their own, so that nothing else waits for them."""
        self._limits = limits
        self._catalog: Catalog | None = None
        self._pins: Pins | None = None
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="adapters")
        self._merging = ThreadPoolExecutor(1, thread_name_prefix="merging")

    def open(self, catalog: Catalog, pins: Pins) -> None:
        """Begin to serve."""
        self._catalog, self._pins = catalog, pins

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._threads.shutdown(cancel_futures=True)
        self._merging.shutdown(cancel_futures=True)

    @override
    async def ImportAdapter(
        self, request_iterator: AsyncIterator[pb.ImportAdapterRequest], context: Context
    ) -> pb.ImportAdapterResponse:
        """Take an adapter in."""
        catalog, messages = self._opened(), aiter(request_iterator)
        order = import_order(_header(await anext(messages, None)), tenant=_tenant())
        if isinstance(order.source, Upload):
            shown = await self._receive(catalog, order, messages)
        else:
            shown = await self._work(self._threads, partial(catalog.fetch, order))
        return pb.ImportAdapterResponse(adapter=self._info(shown))

    @override
    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: Context
    ) -> pb.GetAdapterResponse:
        """Show one adapter."""
        reference = checked_reference(request.adapter)
        return pb.GetAdapterResponse(adapter=self._info(await self._get(reference)))

    @override
    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """List names."""
        page = await self._run(
            self._opened().page,
            listing_of(request),
            tenant=_tenant(),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListAdaptersResponse(
            adapters=[self._info(shown) for shown in page.adapters],
            next_page_token=page.next_page_token,
        )

    @override
    async def DeleteAdapter(
        self, request: pb.DeleteAdapterRequest, context: Context
    ) -> pb.DeleteAdapterResponse:
        """Remove a name."""
        reference, expected = named_reference(request)
        residency = self._residency(await self._get(reference))
        if residency.pinned or residency.num_requests:
            raise AdapterInUse(
                adapter=reference, num_requests=residency.num_requests, pinned=residency.pinned
            )
        await self._run(self._opened().remove, reference, tenant=_tenant(), expected=expected)
        return pb.DeleteAdapterResponse()

    @override
    async def LoadAdapter(
        self, request: pb.LoadAdapterRequest, context: Context
    ) -> pb.LoadAdapterResponse:
        """Bring an adapter to the device and keep it; a call that is given up leaves no pin."""
        reference = checked_reference(request.adapter)
        use = await self._run(
            self._opened().check, reference, tenant=_tenant(), force=request.force
        )
        told, done = _answer()
        ticket = self._engine().load_adapter(use, done)
        try:
            await told
            loaded = self._info(await self._get(reference))
        except BaseException:
            ticket.give_up()
            raise
        ticket.keep()
        return pb.LoadAdapterResponse(adapter=loaded)

    @override
    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Let go of an adapter."""
        reference = checked_reference(request.adapter)
        use = await self._run(self._opened().check, reference, tenant=_tenant(), force=True)
        told, done = _answer()
        self._engine().unload_adapter(use, evict=request.evict, done=done)
        await told
        return pb.UnloadAdapterResponse(adapter=self._info(await self._get(reference)))

    @override
    async def MergeAdapters(
        self, request: pb.MergeAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.MergeAdaptersResponse]:
        """Merge adapters into a new one."""
        catalog = self._opened()
        order = merge_order(request, self._limits, tenant=_tenant())
        async with contextlib.aclosing(self._merge(catalog, order)) as answers:
            async for answer in answers:
                if isinstance(answer, MergeOutcome):
                    result = merge_result(answer, self._info(answer.adapter))
                    yield pb.MergeAdaptersResponse(result=result)
                else:
                    yield pb.MergeAdaptersResponse(progress=answer)

    @override
    async def ExportAdapter(
        self, request: pb.ExportAdapterRequest, context: Context
    ) -> AsyncIterator[pb.ExportAdapterResponse]:
        """Stream an adapter's files."""
        reference, target_format = checked_reference(request.adapter), export_format(request)
        parts = self._opened().export(reference, target_format, tenant=_tenant())
        async with contextlib.aclosing(self._drawn(parts)) as drawn:
            async for part in drawn:
                if isinstance(part, ExportedFile):
                    file = pb.ExportedFile(
                        name=part.path, size_bytes=part.size_bytes, sha256=part.sha256
                    )
                    yield pb.ExportAdapterResponse(file=file)
                else:
                    yield pb.ExportAdapterResponse(chunk=part)

    def _opened(self) -> Catalog:
        if self._catalog is None:
            raise Starting
        return self._catalog

    def _engine(self) -> Pins:
        if self._pins is None:
            raise Starting
        return self._pins

    async def _receive(
        self,
        catalog: Catalog,
        order: ImportOrder,
        messages: AsyncIterator[pb.ImportAdapterRequest],
    ) -> Shown:
        """Take in an upload; what came is gone again if the caller goes away or errs."""
        receiving = self._threads.submit(catalog.receive, order)
        last: Future[Any] = receiving
        left = threading.Event()
        try:
            incoming = await asyncio.wrap_future(receiving)
            async for message in messages:
                last = self._threads.submit(incoming.write, _chunk(message))
                await asyncio.wrap_future(last)
            last = finishing = self._threads.submit(incoming.finish, _unless_left(left))
            return await asyncio.wrap_future(finishing)
        finally:
            left.set()
            last.add_done_callback(lambda _: _discard(receiving))

    async def _merge(
        self, catalog: Catalog, order: MergeOrder
    ) -> AsyncGenerator[pb.MergeProgress | MergeOutcome]:
        """Yield how far a merge is, then what came of it; leaving early ends it."""
        loop = asyncio.get_running_loop()
        latest: list[tuple[int, int]] = []
        news = asyncio.Event()

        def progress(done: int, total: int) -> None:
            latest[:] = [(done, total)]
            with contextlib.suppress(RuntimeError):  # the loop is gone only after its calls
                loop.call_soon_threadsafe(news.set)

        working = asyncio.ensure_future(
            self._work(self._merging, partial(catalog.merge, order, progress))
        )
        working.add_done_callback(lambda _: news.set())
        try:
            while not working.done():
                await news.wait()
                news.clear()
                if latest and not working.done():
                    done, total = latest.pop()
                    yield pb.MergeProgress(done=done, total=total)
            yield working.result()
        finally:
            working.cancel()

    async def _drawn(
        self, parts: Iterator[ExportedFile | bytes]
    ) -> AsyncGenerator[ExportedFile | bytes]:
        """Yield what ``parts`` yields, drawn in threads."""
        close: Callable[[], None] = getattr(parts, "close", lambda: None)
        try:
            while (part := await self._run(next, parts, None)) is not None:
                yield part
        finally:
            self._threads.submit(close)

    async def _get(self, reference: str) -> Shown:
        return await self._run(self._opened().get, reference, tenant=_tenant())

    async def _run(
        self, function: Callable[..., Result], *arguments: object, **named: object
    ) -> Result:
        """Return what ``function`` returns, called in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *arguments, **named))

    async def _work(
        self, threads: ThreadPoolExecutor, function: Callable[[Callable[[], None]], Result]
    ) -> Result:
        """Return what long work returns; when the call is given up, the work is told to end."""
        left = threading.Event()
        go_on = _unless_left(left)

        def work() -> Result:
            go_on()
            return function(go_on)

        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            left.set()

    def _info(self, shown: Shown) -> pb.AdapterInfo:
        return adapter_info(shown, self._residency(shown))

    def _residency(self, shown: Shown) -> pb.AdapterResidency:
        """Return where an adapter is, as the engine last said, and what the tenant does with it."""
        stats, digest = self._engine().stats().adapters, str(shown.card.digest)
        pool = stats.pool
        tier = "disk" if shown.is_here else "store"
        if digest in stats.in_host:
            tier = "host"
        if digest in pool.resident:
            tier = "device"
        return pb.AdapterResidency(
            tier=tier,
            pinned=(_tenant(), digest) in pool.pins,
            num_requests=pool.users.get((_tenant(), digest), 0),
        )


def _answer() -> "tuple[asyncio.Future[None], Pinned]":
    """Return a future of this loop, and what settles it from any thread with an error or None."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def settle(error: DiptychError | None) -> None:
        if told.done():
            return
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(error)

    def done(error: DiptychError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone only after its calls
            loop.call_soon_threadsafe(settle, error)

    return told, done


def _unless_left(left: threading.Event) -> GoOn:
    """Return what raises once ``left`` is set: the caller of this call has gone."""
    request_id = current_caller().request_id

    def go_on() -> None:
        if left.is_set():
            raise RequestCancelled(request_id)

    return go_on


def _discard(receiving: "Future[Incoming]") -> None:
    """Leave nothing of an upload, whose last step has ended; one that is finished is kept."""
    if not receiving.cancelled() and receiving.exception() is None:
        receiving.result().discard()


def _tenant() -> str:
    return current_caller().tenant


def _header(message: pb.ImportAdapterRequest | None) -> pb.ImportAdapterHeader:
    if message is None or message.WhichOneof("part") != "header":
        raise _invalid("header", "is required as the first message")
    return message.header


def _chunk(message: pb.ImportAdapterRequest) -> bytes:
    if message.WhichOneof("part") != "chunk":
        raise _invalid("part", "after the header only chunks may come")
    return message.chunk


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=description)])

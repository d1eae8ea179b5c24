"""Clients of AdapterService: one synchronous, one asyncio, with the same methods.

Both raise the error the server raised, with its fields. An import whose call ends early leaves
nothing on the server, an export that ends early nothing here.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import grpc

from diptych.clients.adapter_messages import (
    FORMATS,
    import_messages,
    list_request,
    merge_request,
    read_info,
    read_merge_result,
)
from diptych.clients.adapter_values import (
    AdapterFilter,
    AdapterInfo,
    ImportCall,
    MergeCall,
    MergeResult,
    OnProgress,
)
from diptych.clients.config import ClientConfig, call_options, meaning
from diptych.clients.exporting import ExportWriter
from diptych.clients.sending import Sending
from diptych.errors import DiptychError, FieldViolation, InvalidRequest, ResponseCorrupt
from diptych.rpc.channel import open_async_channel, open_channel
from diptych.v1 import adapters_pb2 as pb
from diptych.v1 import adapters_pb2_grpc as pb_grpc

__all__ = ["AdapterClient", "AsyncAdapterClient"]

PAGE_SIZE: Final = 200


class AdapterClient:
    """A synchronous client; may be used from several threads. Close it, or use it in a ``with``."""

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_channel(config.channel)
        self._stub: Any = pb_grpc.AdapterServiceStub(self._channel)

    def import_adapter(
        self,
        call: ImportCall,
        *,
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> AdapterInfo:
        """Bring an adapter in and return it; ``progress`` hears of the bytes sent.

        Raises:
            DiptychError: what the server raised, or ``Unavailable`` if none answers.
        """
        request_id = str(uuid.uuid4())
        sending = Sending(import_messages(call, request_id, progress))
        try:
            with self._translating(request_id):
                answer = self._stub.ImportAdapter(
                    iter(sending), **call_options(self._config, request_id, timeout_s)
                )
        except DiptychError as error:
            raise sending.problem or error from error
        return read_info(answer.adapter)

    def get(self, adapter: str, *, timeout_s: float | None = None) -> AdapterInfo:
        """Return what ``adapter`` means; raises as ``import_adapter`` does."""
        request = pb.GetAdapterRequest(adapter=adapter)
        return read_info(self._call(self._stub.GetAdapter, request, timeout_s).adapter)

    def list_adapters(
        self,
        where: AdapterFilter | None = None,
        *,
        page_size: int = PAGE_SIZE,
        timeout_s: float | None = None,
    ) -> Iterator[AdapterInfo]:
        """Yield the adapters by name, page after page; raises as ``import_adapter`` does."""
        token = ""
        while True:
            request = list_request(where or AdapterFilter(), page_size, token)
            page = self._call(self._stub.ListAdapters, request, timeout_s)
            yield from (read_info(one) for one in page.adapters)
            token = page.next_page_token
            if not token:
                return

    def delete(
        self, adapter: str, *, expected_digest: str = "", timeout_s: float | None = None
    ) -> None:
        """Remove a name; raises as ``import_adapter`` does."""
        request = pb.DeleteAdapterRequest(adapter=adapter, expected_digest=expected_digest)
        self._call(self._stub.DeleteAdapter, request, timeout_s)

    def load(
        self, adapter: str, *, force: bool = False, timeout_s: float | None = None
    ) -> AdapterInfo:
        """Bring an adapter to the device and keep it; raises as ``import_adapter`` does."""
        request = pb.LoadAdapterRequest(adapter=adapter, force=force)
        return read_info(self._call(self._stub.LoadAdapter, request, timeout_s).adapter)

    def unload(
        self, adapter: str, *, evict: bool = False, timeout_s: float | None = None
    ) -> AdapterInfo:
        """Let an adapter go that ``load`` keeps; raises as ``import_adapter`` does."""
        request = pb.UnloadAdapterRequest(adapter=adapter, evict=evict)
        return read_info(self._call(self._stub.UnloadAdapter, request, timeout_s).adapter)

    def merge(
        self,
        call: MergeCall,
        *,
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> MergeResult:
        """Merge adapters into a new one; raises as ``import_adapter`` does."""
        request = merge_request(call)
        options = call_options(self._config, request.request_id, timeout_s)
        messages = self._stub.MergeAdapters(request, **options)
        result: MergeResult | None = None
        try:
            with self._translating(request.request_id):
                for message in messages:
                    result = _merged(message, progress) or result
        finally:
            messages.cancel()
        return _whole(result)

    def export(
        self,
        adapter: str,
        out: Path,
        *,
        target_format: str = "bundle",
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> list[Path]:
        """Write an adapter's files and return their paths; raises as ``import_adapter`` does.

        Args:
            adapter: Name or digest.
            out: The file, where it ends in ``.safetensors`` and there is but one; else a folder,
                which must not be there yet.
            target_format: bundle, diffusers, peft or kohya.
            progress: Told the bytes of each file.
            timeout_s: As of every call.
        """
        request, request_id = _export_request(adapter, target_format), str(uuid.uuid4())
        with ExportWriter(out, progress) as writer:
            options = call_options(self._config, request_id, timeout_s)
            messages = self._stub.ExportAdapter(request, **options)
            try:
                with self._translating(request_id):
                    for message in messages:
                        writer.feed(message)
            finally:
                messages.cancel()
            return writer.finish()

    def close(self) -> None:
        """Cancel what runs and disconnect."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _call(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:  # noqa: ANN401 - any message
        request_id = str(uuid.uuid4())
        with self._translating(request_id):
            return method(request, **call_options(self._config, request_id, timeout_s))

    @contextlib.contextmanager
    def _translating(self, request_id: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise meaning(error, self._config, request_id) from error


class AsyncAdapterClient:
    """An asyncio client of the loop it was made in. Close it, or use it in an ``async with``.

    Exported files are written in the loop, a mebibyte at a time.
    """

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_async_channel(config.channel)
        self._stub: Any = pb_grpc.AdapterServiceStub(self._channel)

    async def import_adapter(
        self,
        call: ImportCall,
        *,
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> AdapterInfo:
        """Bring an adapter in and return it, as ``AdapterClient.import_adapter`` does.

        A synchronous client sends the bytes from a thread, over a connection of its own: asyncio's
        calls forget why the server ended them while they were still sending.
        """
        loop = asyncio.get_running_loop()

        def told(done: int, total: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(partial(progress, done, total))

        blocking = AdapterClient(self._config)
        try:
            sending = partial(blocking.import_adapter, call, progress=told, timeout_s=timeout_s)
            return await asyncio.to_thread(sending)
        finally:
            blocking.close()

    async def get(self, adapter: str, *, timeout_s: float | None = None) -> AdapterInfo:
        """Return what ``adapter`` means."""
        request = pb.GetAdapterRequest(adapter=adapter)
        return read_info((await self._call(self._stub.GetAdapter, request, timeout_s)).adapter)

    async def list_adapters(
        self,
        where: AdapterFilter | None = None,
        *,
        page_size: int = PAGE_SIZE,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AdapterInfo]:
        """Yield the adapters by name, page after page."""
        token = ""
        while True:
            request = list_request(where or AdapterFilter(), page_size, token)
            page = await self._call(self._stub.ListAdapters, request, timeout_s)
            for one in page.adapters:
                yield read_info(one)
            token = page.next_page_token
            if not token:
                return

    async def delete(
        self, adapter: str, *, expected_digest: str = "", timeout_s: float | None = None
    ) -> None:
        """Remove a name."""
        request = pb.DeleteAdapterRequest(adapter=adapter, expected_digest=expected_digest)
        await self._call(self._stub.DeleteAdapter, request, timeout_s)

    async def load(
        self, adapter: str, *, force: bool = False, timeout_s: float | None = None
    ) -> AdapterInfo:
        """Bring an adapter to the device and keep it."""
        request = pb.LoadAdapterRequest(adapter=adapter, force=force)
        return read_info((await self._call(self._stub.LoadAdapter, request, timeout_s)).adapter)

    async def unload(
        self, adapter: str, *, evict: bool = False, timeout_s: float | None = None
    ) -> AdapterInfo:
        """Let an adapter go that ``load`` keeps."""
        request = pb.UnloadAdapterRequest(adapter=adapter, evict=evict)
        return read_info((await self._call(self._stub.UnloadAdapter, request, timeout_s)).adapter)

    async def merge(
        self,
        call: MergeCall,
        *,
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> MergeResult:
        """Merge adapters into a new one."""
        request = merge_request(call)
        options = call_options(self._config, request.request_id, timeout_s)
        messages = self._stub.MergeAdapters(request, **options)
        result: MergeResult | None = None
        try:
            with self._translating(request.request_id):
                async for message in messages:
                    result = _merged(message, progress) or result
        finally:
            messages.cancel()
        return _whole(result)

    async def export(
        self,
        adapter: str,
        out: Path,
        *,
        target_format: str = "bundle",
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> list[Path]:
        """Write an adapter's files and return their paths, as ``AdapterClient.export`` does."""
        request, request_id = _export_request(adapter, target_format), str(uuid.uuid4())
        with ExportWriter(out, progress) as writer:
            options = call_options(self._config, request_id, timeout_s)
            messages = self._stub.ExportAdapter(request, **options)
            try:
                with self._translating(request_id):
                    async for message in messages:
                        writer.feed(message)
            finally:
                messages.cancel()
            return writer.finish()

    async def close(self) -> None:
        """Cancel what runs and disconnect."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _call(
        self, method: Callable[..., Any], request: object, timeout_s: float | None
    ) -> Any:  # noqa: ANN401 - any message
        request_id = str(uuid.uuid4())
        with self._translating(request_id):
            return await method(request, **call_options(self._config, request_id, timeout_s))

    @contextlib.contextmanager
    def _translating(self, request_id: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise meaning(error, self._config, request_id) from error


def _merged(message: pb.MergeAdaptersResponse, progress: OnProgress | None) -> MergeResult | None:
    """Tell of a merge's progress, or return its result."""
    if message.HasField("result"):
        return read_merge_result(message.result)
    if progress is not None and message.HasField("progress"):
        progress(message.progress.done, message.progress.total)
    return None


def _whole(result: MergeResult | None) -> MergeResult:
    if result is None:
        raise ResponseCorrupt("a merge ended without its result")
    return result


def _export_request(adapter: str, target_format: str) -> pb.ExportAdapterRequest:
    if target_format not in FORMATS:
        problem = f"{target_format!r:.80} is none of {', '.join(FORMATS)}"
        raise InvalidRequest([FieldViolation(field="format", description=problem)])
    return pb.ExportAdapterRequest(adapter=adapter, format=FORMATS[target_format])

"""The gRPC face of the cache; asyncio, what blocks in threads."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import grpc
from typing_extensions import override

from diptych.digest import Digest
from diptych.embedding_cache.answers import (
    encoded_embeddings,
    encoders_answer,
    eviction_answer,
    fetched,
    stats_answer,
)
from diptych.embedding_cache.obtaining import Makes, Obtaining
from diptych.embedding_cache.ports import (
    CacheMode,
    Encoding,
    Found,
    Hosting,
    Stage,
    Store,
)
from diptych.embedding_cache.streams import (
    embedding_messages,
    received_embeddings,
    received_images,
)
from diptych.embedding_cache.warm_answers import warm_answers
from diptych.embedding_cache.wire import (
    ImageOrder,
    ImagesOrder,
    checked_keys,
    images_order,
    prompts_order,
    warm_order,
)
from diptych.embeddings.entry import check_finite, read_entry
from diptych.errors import (
    ExpertMissing,
    FieldViolation,
    InvalidRequest,
    PromptTooLong,
    Starting,
)
from diptych.rpc.interceptors import current_caller
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import embedding_cache_pb2_grpc as pb_grpc

__all__ = ["CACHE_SERVICE_NAME", "EmbeddingCacheService"]

CACHE_SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["EmbeddingCacheService"].full_name
READ_GROUP: Final = 8
"""Embeddings that are read from a disk or a bucket at once, and that one message may have."""
UNKNOWN: Final = "unknown"
"""Kind of what is asked for by its key alone."""
NUM_THREADS: Final = 8
NUM_QUICK: Final = 2
NUM_WARMING: Final = 2

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")


class EmbeddingCacheService(pb_grpc.EmbeddingCacheServiceServicer):
    """Serves what ``open`` was given; before, every call is refused with ``Starting``.

    Belongs to one event loop. Errors leave as ``DiptychError``; the interceptor of ``rpc`` turns
    them into statuses.
    """

    def __init__(self) -> None:
        self._hosting: Hosting | None = None
        self._obtaining: dict[str, Obtaining] = {}
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="cache")
        """For what may wait for a disk or a bucket."""
        self._quick = ThreadPoolExecutor(NUM_QUICK, thread_name_prefix="quick")
        """For what only computes, so that hits in memory wait for no bucket."""
        self._warming = ThreadPoolExecutor(NUM_WARMING, thread_name_prefix="warming")

    def open(self, hosting: Hosting) -> None:
        """Begin to serve."""
        self._hosting = hosting

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._warming.shutdown(cancel_futures=True)
        self._threads.shutdown(cancel_futures=True)
        self._quick.shutdown(cancel_futures=True)

    @override
    async def EncodePrompts(
        self, request: pb.EncodePromptsRequest, context: Context
    ) -> pb.EncodePromptsResponse:
        """Return the embeddings of texts."""
        order = prompts_order(request)
        encoding = self._encoding(order.stage)
        records = await self._run(_each, encoding.prompt_record, order.wishes, within=self._quick)
        keys = [record.key() for record in records]
        makes: Makes = {
            key: partial(encoding.encode_prompt, record)
            for key, record in zip(keys, records, strict=True)
        }
        found = await (await self._obtain()).obtain(
            makes, kind="prompt", mode=order.mode, with_values=order.with_values
        )
        is_all = order.mode is CacheMode.BYPASS
        return pb.EncodePromptsResponse(embeddings=encoded_embeddings(keys, found, is_all=is_all))

    @override
    async def EncodeImages(
        self, request_iterator: AsyncIterator[pb.EncodeImagesRequest], context: Context
    ) -> pb.EncodeImagesResponse:
        """Return the embeddings of images."""
        messages = aiter(request_iterator)
        first = await anext(messages, None)
        if first is None or first.WhichOneof("part") != "header":
            raise _invalid("header", "is required as the first message")
        order = images_order(first.header)
        encoding, obtaining = self._encoding(order.stage), await self._obtain()
        tasks: list[asyncio.Task[tuple[Digest, Found]]] = []
        try:
            async for image, data in received_images(messages):
                work = self._image(encoding, obtaining, order, image, data)
                tasks.append(asyncio.create_task(work))
            pairs = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        keys = [key for key, _ in pairs]
        is_all = order.mode is CacheMode.BYPASS
        embeddings = encoded_embeddings(keys, dict(pairs), is_all=is_all)
        return pb.EncodeImagesResponse(embeddings=embeddings)

    @override
    async def FindMissing(
        self, request: pb.FindMissingRequest, context: Context
    ) -> pb.FindMissingResponse:
        """Name the keys that are not there."""
        keys = checked_keys(request.keys, at_least=0)
        missing = await self._run((await self._store()).missing, keys)
        return pb.FindMissingResponse(keys=[bytes.fromhex(key.hex) for key in missing])

    @override
    async def FetchEmbeddings(
        self, request: pb.FetchEmbeddingsRequest, context: Context
    ) -> pb.FetchEmbeddingsResponse:
        """Return a few embeddings; what memory holds waits for no thread."""
        keys, store = checked_keys(request.keys, at_most=READ_GROUP), await self._store()
        found: dict[Digest, tuple[bytes, bytes]] = {}
        for key in keys:
            if (held := store.peek(key)) is not None:
                store.count("memory", kind=UNKNOWN)
                found[key] = held.data, held.sha256
        if cold := [key for key in keys if key not in found]:
            for key, value, sha256 in await self._run(_draw, store.read_many(cold)):
                found[key] = value, sha256
        return fetched(keys, found)

    @override
    async def ReadEmbeddings(
        self, request: pb.ReadEmbeddingsRequest, context: Context
    ) -> AsyncIterator[pb.ReadEmbeddingsResponse]:
        """Stream embeddings, those that memory holds first."""
        keys, store = checked_keys(request.keys), await self._store()
        cold: list[Digest] = []
        missing = dict.fromkeys(keys)
        for key in keys:
            if (held := store.peek(key)) is None:
                cold.append(key)
                continue
            store.count("memory", kind=UNKNOWN)
            del missing[key]
            for message in embedding_messages(key, held.data, held.sha256):
                yield message
        if cold:
            async with contextlib.aclosing(self._drawn(store.read_many(cold))) as drawn:
                async for key, value, sha256 in drawn:
                    missing.pop(key, None)
                    for message in embedding_messages(key, value, sha256):
                        yield message
        lost = pb.MissingKeys(keys=[bytes.fromhex(key.hex) for key in missing])
        yield pb.ReadEmbeddingsResponse(missing=lost)

    @override
    async def WriteEmbeddings(
        self, request_iterator: AsyncIterator[pb.WriteEmbeddingsRequest], context: Context
    ) -> pb.WriteEmbeddingsResponse:
        """Keep embeddings that the caller made."""
        store, num_written, num_present = await self._store(), 0, 0
        num_failed = store.num_failed_writes
        async for key, value in received_embeddings(aiter(request_iterator)):
            is_new = await self._run(_write, store, key, value)
            num_written, num_present = num_written + is_new, num_present + (not is_new)
        await self._run(store.flush, since=num_failed)
        return pb.WriteEmbeddingsResponse(num_written=num_written, num_present=num_present)

    @override
    async def WarmDataset(
        self, request: pb.WarmDatasetRequest, context: Context
    ) -> AsyncIterator[pb.WarmDatasetResponse]:
        """Encode what a dataset needs."""
        hosting = self._opened()
        order = warm_order(request, hosted=tuple(hosting.encodings))
        for stage in order.stages:
            self._encoding(stage)
        if hosting.warming is None:
            raise _invalid("manifest", "this server has no dataset folder")
        answers = warm_answers(hosting.warming, order, current_caller(), self._warming)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    @override
    async def GetEncoders(
        self, request: pb.GetEncodersRequest, context: Context
    ) -> pb.GetEncodersResponse:
        """Tell whose encoders are here."""
        encodings = self._opened().encodings
        return encoders_answer({stage: one.identities for stage, one in encodings.items()})

    @override
    async def GetCacheStats(
        self, request: pb.GetCacheStatsRequest, context: Context
    ) -> pb.GetCacheStatsResponse:
        """Tell what the cache holds and did."""
        counts = await self._run((await self._store()).counts)
        return stats_answer(counts, self._opened().encoded())

    @override
    async def EvictEmbeddings(
        self, request: pb.EvictEmbeddingsRequest, context: Context
    ) -> pb.EvictEmbeddingsResponse:
        """Drop embeddings."""
        store, what = await self._store(), request.WhichOneof("what")
        if what == "keys":
            keys = checked_keys(request.keys.keys, field="keys.keys")
            return eviction_answer(await self._run(store.evict, keys, is_dry_run=request.dry_run))
        if what != "unneeded":
            raise _invalid("what", "keys or unneeded is required")
        unneeded = request.unneeded
        older_than_s = None
        if unneeded.HasField("older_than"):
            older_than_s = unneeded.older_than.seconds + unneeded.older_than.nanos / 1e9
        if unneeded.budget_bytes < 0 or (older_than_s is not None and older_than_s < 0):
            raise _invalid("unneeded", "ages and budgets are at least 0")
        reclaim = partial(
            store.reclaim,
            older_than_s=older_than_s,
            budget_bytes=unneeded.budget_bytes or None,
            is_dry_run=request.dry_run,
        )
        return eviction_answer(await self._run(reclaim))

    def _opened(self) -> Hosting:
        if self._hosting is None:
            raise Starting
        return self._hosting

    def _encoding(self, stage: Stage | None) -> Encoding:
        encodings = self._opened().encodings
        if stage is None:
            stage = Stage.BASE if Stage.BASE in encodings else next(iter(encodings), Stage.BASE)
        if stage not in encodings:
            raise ExpertMissing(stage.value)
        return encodings[stage]

    async def _store(self) -> Store:
        return (await self._obtain()).store

    async def _obtain(self) -> Obtaining:
        """Return the caller's; what is open is given without waiting for a thread."""
        tenant = current_caller().tenant
        if tenant not in self._obtaining:
            store = await self._run(self._opened().store_of, tenant)
            self._obtaining.setdefault(tenant, Obtaining(store, self._threads))
        return self._obtaining[tenant]

    async def _image(
        self,
        encoding: Encoding,
        obtaining: Obtaining,
        order: ImagesOrder,
        image: ImageOrder,
        data: bytes,
    ) -> tuple[Digest, Found]:
        digest = await self._run(Digest.of_bytes, data, within=self._quick)
        record = encoding.image_record(digest, image.preprocessing)
        key = record.key()
        makes: Makes = {key: partial(encoding.encode_image, record, data, label=image.label)}
        found = await obtaining.obtain(
            makes, kind="image", mode=order.mode, with_values=order.with_values
        )
        return key, found[key]

    async def _drawn(
        self, entries: Iterator[tuple[Digest, bytes]]
    ) -> AsyncGenerator[tuple[Digest, bytes, bytes]]:
        """Yield what ``entries`` yields and its SHA-256, drawn a few at a time in threads."""
        close: Callable[[], None] = getattr(entries, "close", lambda: None)
        try:
            while some := await self._run(_draw, entries):
                for entry in some:
                    yield entry
        finally:
            self._threads.submit(close)

    async def _run(
        self,
        function: Callable[..., Result],
        *arguments: object,
        within: ThreadPoolExecutor | None = None,
        **named: object,
    ) -> Result:
        loop = asyncio.get_running_loop()
        work = partial(function, *arguments, **named)
        return await loop.run_in_executor(within or self._threads, work)


def _each(function: Callable[[Any], Result], wishes: Sequence[Any]) -> list[Result]:
    """Return what ``function`` makes of each wish.

    Raises:
        PromptTooLong: Of all that are too long, at once.
    """
    made: list[Result] = []
    too_long: list[PromptTooLong] = []
    for wish in wishes:
        try:
            made.append(function(wish))
        except PromptTooLong as error:
            too_long.append(error)
    if too_long:
        raise PromptTooLong.all_of(too_long)
    return made


def _draw(entries: Iterator[tuple[Digest, bytes]]) -> list[tuple[Digest, bytes, bytes]]:
    return [
        (key, value, hashlib.sha256(value).digest()) for key, value in islice(entries, READ_GROUP)
    ]


def _write(store: Store, key: Digest, value: bytes) -> bool:
    """Keep what can be used; tell whether it was new.

    Raises:
        EmbeddingInvalid: It is no entry, or has values that are not finite.
    """
    check_finite(read_entry(value))
    return store.write(key, value)


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=problem)])

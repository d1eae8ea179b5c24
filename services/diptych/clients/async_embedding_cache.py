"""The asyncio client of EmbeddingCacheService, with the methods of the synchronous one."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from diptych.clients.adapter_values import OnProgress
from diptych.clients.config import ClientConfig, call_options, meaning
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_messages import (
    EmbeddingReader,
    evict_keys_request,
    evict_unneeded_request,
    key_groups,
    prompts_request,
    read_encoded,
    read_evicted,
    read_keys,
    read_stats,
)
from diptych.clients.embedding_values import (
    CacheStats,
    EncodedEmbedding,
    Evicted,
    ImagesCall,
    PromptsCall,
    WarmCall,
    WarmResult,
    Written,
)
from diptych.clients.encoder_messages import read_encoders
from diptych.clients.fetch_messages import MAX_FETCHED, fetch_request, read_fetched
from diptych.clients.message_fields import check_size
from diptych.clients.readiness import wait_until_ready_async
from diptych.clients.warm_messages import warm_request, warmed, whole
from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities
from diptych.errors import EmbeddingMissing
from diptych.rpc.channel import open_async_channel
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import embedding_cache_pb2_grpc as pb_grpc

__all__ = ["AsyncEmbeddingCacheClient"]

Result = TypeVar("Result")


class AsyncEmbeddingCacheClient:
    """An asyncio client of the loop it was made in. Close it, or use it in an ``async with``.

    What is sent in a stream is sent by a synchronous client from a thread: asyncio's calls forget
    why the server ended them while they were still sending.
    """

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_async_channel(config.channel)
        self._stub: Any = pb_grpc.EmbeddingCacheServiceStub(self._channel)

    async def encode_prompts(
        self, call: PromptsCall, *, timeout_s: float | None = None
    ) -> list[EncodedEmbedding]:
        """Return the embedding of each text, encoding what is missing."""
        request = prompts_request(call, str(uuid.uuid4()))
        answer = await self._call(self._stub.EncodePrompts, request, timeout_s)
        return read_encoded(answer.embeddings)

    async def encode_images(
        self, call: ImagesCall, *, timeout_s: float | None = None
    ) -> list[EncodedEmbedding]:
        """Return the embedding of each image."""
        return await self._blocking(lambda c: c.encode_images(call, timeout_s=timeout_s))

    async def find_missing(
        self, keys: Sequence[Digest], *, timeout_s: float | None = None
    ) -> list[Digest]:
        """Return those of ``keys`` that are not there."""
        missing: list[Digest] = []
        for some in key_groups(keys):
            request = pb.FindMissingRequest(keys=[bytes.fromhex(key.hex) for key in some])
            missing += read_keys(
                (await self._call(self._stub.FindMissing, request, timeout_s)).keys
            )
        return missing

    async def read(
        self, keys: Sequence[Digest], *, timeout_s: float | None = None
    ) -> AsyncIterator[tuple[Digest, bytes]]:
        """Yield embeddings in the order that is quickest to read, as the synchronous one does."""
        missing: list[Digest] = []
        for some in key_groups(keys):
            unsent: Sequence[Digest] = some
            if len(some) <= MAX_FETCHED:
                answer = await self._call(
                    self._stub.FetchEmbeddings, fetch_request(some), timeout_s
                )
                fetched = read_fetched(answer, some)
                for found in fetched.found:
                    yield found
                missing += fetched.missing
                unsent = fetched.unsent
            if unsent:
                reader = EmbeddingReader(unsent)
                async with contextlib.aclosing(self._read(reader, unsent, timeout_s)) as streamed:
                    async for found in streamed:
                        yield found
                missing += reader.finish()
        if missing:
            raise EmbeddingMissing(str(missing[0]), len(missing))

    async def write(
        self, entries: Sequence[tuple[Digest, bytes]], *, timeout_s: float | None = None
    ) -> Written:
        """Keep embeddings that were made here."""
        return await self._blocking(lambda c: c.write(entries, timeout_s=timeout_s))

    async def warm(
        self,
        call: WarmCall,
        *,
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> WarmResult:
        """Encode what a dataset needs and return what came of it."""
        request = warm_request(call, str(uuid.uuid4()))
        check_size(request, self._config.channel.max_message_bytes)
        options = call_options(self._config, request.request_id, timeout_s)
        messages = self._stub.WarmDataset(request, **options)
        result: WarmResult | None = None
        try:
            with self._translating(request.request_id):
                async for message in messages:
                    result = warmed(message, progress) or result
        finally:
            messages.cancel()
        return whole(result)

    async def encoders(self, *, timeout_s: float | None = None) -> Mapping[str, EncoderIdentities]:
        """Return the encoders of each stage, base or refiner: with them keys are computed here."""
        request = pb.GetEncodersRequest()
        return read_encoders(await self._call(self._stub.GetEncoders, request, timeout_s))

    async def stats(self, *, timeout_s: float | None = None) -> CacheStats:
        """Return what the cache holds and did."""
        request = pb.GetCacheStatsRequest()
        return read_stats(await self._call(self._stub.GetCacheStats, request, timeout_s))

    async def evict(
        self, keys: Sequence[Digest], *, dry_run: bool = False, timeout_s: float | None = None
    ) -> Evicted:
        """Drop embeddings, whatever needs them."""
        evicted: Evicted | None = None
        for some in [*key_groups(keys)] or [()]:
            request = evict_keys_request(some, dry_run=dry_run)
            answer = await self._call(self._stub.EvictEmbeddings, request, timeout_s)
            evicted = read_evicted(answer, before=evicted)
        assert evicted is not None, "at least one call was made"
        return evicted

    async def evict_unneeded(
        self,
        *,
        older_than_s: float | None = None,
        budget_bytes: int = 0,
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> Evicted:
        """Drop what no dataset and no pin needs."""
        request = evict_unneeded_request(
            older_than_s=older_than_s, budget_bytes=budget_bytes, dry_run=dry_run
        )
        return read_evicted(await self._call(self._stub.EvictEmbeddings, request, timeout_s))

    async def wait_until_ready(self, *, timeout_s: float) -> None:
        """Return as soon as the server takes calls; raises if it does not within ``timeout_s``."""
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

    async def _read(
        self, reader: EmbeddingReader, keys: Sequence[Digest], timeout_s: float | None
    ) -> AsyncGenerator[tuple[Digest, bytes]]:
        """Yield what one streaming call gives; ``reader`` then knows what is missing."""
        request_id = str(uuid.uuid4())
        request = pb.ReadEmbeddingsRequest(keys=[bytes.fromhex(key.hex) for key in keys])
        options = call_options(self._config, request_id, timeout_s)
        messages = self._stub.ReadEmbeddings(request, **options)
        try:
            with self._translating(request_id):
                async for message in messages:
                    if (found := reader.feed(message)) is not None:
                        yield found
        finally:
            messages.cancel()

    async def _blocking(self, work: Callable[[EmbeddingCacheClient], Result]) -> Result:
        blocking = EmbeddingCacheClient(self._config)
        try:
            return await asyncio.to_thread(partial(work, blocking))
        finally:
            blocking.close()

    async def _call(
        self, method: Callable[..., Any], request: Message, timeout_s: float | None
    ) -> Any:  # noqa: ANN401 - any message
        request_id = str(uuid.uuid4())
        check_size(request, self._config.channel.max_message_bytes)
        with self._translating(request_id):
            return await method(request, **call_options(self._config, request_id, timeout_s))

    @contextlib.contextmanager
    def _translating(self, request_id: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise meaning(error, self._config, request_id) from error

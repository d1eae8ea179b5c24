"""The synchronous client of EmbeddingCacheService; ``async_embedding_cache`` has the other.

Both raise the error the server raised, with its fields, and check every value against its digest.
"""

import contextlib
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from diptych.clients.adapter_values import OnProgress
from diptych.clients.config import ClientConfig, call_options, meaning
from diptych.clients.embedding_messages import (
    EmbeddingReader,
    evict_keys_request,
    evict_unneeded_request,
    image_messages,
    key_groups,
    prompts_request,
    read_encoded,
    read_evicted,
    read_keys,
    read_stats,
    write_messages,
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
from diptych.clients.message_fields import check_size, sendable
from diptych.clients.prefetching import read_ahead
from diptych.clients.readiness import wait_until_ready
from diptych.clients.sending import Sending
from diptych.clients.warm_messages import warm_request, warmed, whole
from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities
from diptych.errors import DiptychError, EmbeddingMissing
from diptych.rpc.channel import open_channel
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import embedding_cache_pb2_grpc as pb_grpc

__all__ = ["EmbeddingCacheClient"]


class EmbeddingCacheClient:
    """A synchronous client; may be used from several threads. Close it, or use it in a ``with``."""

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_channel(config.channel)
        self._stub: Any = pb_grpc.EmbeddingCacheServiceStub(self._channel)

    def encode_prompts(
        self, call: PromptsCall, *, timeout_s: float | None = None
    ) -> list[EncodedEmbedding]:
        """Return the embedding of each text, encoding what is missing.

        Raises:
            DiptychError: what the server raised, or ``Unavailable`` if none answers.
        """
        request = prompts_request(call, str(uuid.uuid4()))
        return read_encoded(self._call(self._stub.EncodePrompts, request, timeout_s).embeddings)

    def encode_images(
        self, call: ImagesCall, *, timeout_s: float | None = None
    ) -> list[EncodedEmbedding]:
        """Return the embedding of each image; raises as ``encode_prompts`` does."""
        request_id = str(uuid.uuid4())
        messages = image_messages(call, request_id)
        return read_encoded(self._send(self._stub.EncodeImages, messages, timeout_s).embeddings)

    def find_missing(
        self, keys: Sequence[Digest], *, timeout_s: float | None = None
    ) -> list[Digest]:
        """Return those of ``keys`` that are not there; raises as ``encode_prompts`` does."""
        missing: list[Digest] = []
        for some in key_groups(keys):
            request = pb.FindMissingRequest(keys=[bytes.fromhex(key.hex) for key in some])
            missing += read_keys(self._call(self._stub.FindMissing, request, timeout_s).keys)
        return missing

    def read(
        self, keys: Sequence[Digest], *, timeout_s: float | None = None
    ) -> Iterator[tuple[Digest, bytes]]:
        """Yield embeddings in the order that is quickest to read, each once.

        Raises:
            EmbeddingMissing: In the end, if some are not there.
            DiptychError: as ``encode_prompts``.
        """
        missing: list[Digest] = []
        for some in key_groups(keys):
            read = self._fetch if len(some) <= MAX_FETCHED else self._read
            missing += yield from read(some, timeout_s)
        if missing:
            raise EmbeddingMissing(str(missing[0]), len(missing))

    def read_in_order(
        self,
        keys: Iterable[Digest],
        *,
        batch_size: int = 32,
        num_ahead: int = 4,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[Digest, bytes]]:
        """Yield the embedding of each of ``keys`` in their order, read ahead in a thread.

        ``keys`` may be endless; at most ``batch_size * (num_ahead + 2)`` embeddings are in memory.
        Raises as ``read`` does, with the batch that has the trouble.
        """
        return read_ahead(
            keys,
            lambda some: dict(self.read(some, timeout_s=timeout_s)),
            batch_size=batch_size,
            num_ahead=num_ahead,
        )

    def write(
        self, entries: Iterable[tuple[Digest, bytes]], *, timeout_s: float | None = None
    ) -> Written:
        """Keep embeddings that were made here; raises as ``encode_prompts`` does."""
        answer = self._send(self._stub.WriteEmbeddings, write_messages(entries), timeout_s)
        return Written(num_written=answer.num_written, num_present=answer.num_present)

    def warm(
        self,
        call: WarmCall,
        *,
        progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> WarmResult:
        """Encode what a dataset needs and return what came of it; raises as the others do."""
        request = warm_request(call, str(uuid.uuid4()))
        check_size(request, self._config.channel.max_message_bytes)
        options = call_options(self._config, request.request_id, timeout_s)
        messages = self._stub.WarmDataset(request, **options)
        result: WarmResult | None = None
        try:
            with self._translating(request.request_id):
                for message in messages:
                    result = warmed(message, progress) or result
        finally:
            messages.cancel()
        return whole(result)

    def encoders(self, *, timeout_s: float | None = None) -> Mapping[str, EncoderIdentities]:
        """Return the encoders of each stage, base or refiner: with them keys are computed here.

        Raises:
            DigestMismatch: The server is of a version that computes keys otherwise.
            DiptychError: as ``encode_prompts``.
        """
        request = pb.GetEncodersRequest()
        return read_encoders(self._call(self._stub.GetEncoders, request, timeout_s))

    def stats(self, *, timeout_s: float | None = None) -> CacheStats:
        """Return what the cache holds and did."""
        request = pb.GetCacheStatsRequest()
        return read_stats(self._call(self._stub.GetCacheStats, request, timeout_s))

    def evict(
        self, keys: Sequence[Digest], *, dry_run: bool = False, timeout_s: float | None = None
    ) -> Evicted:
        """Drop embeddings, whatever needs them."""
        evicted: Evicted | None = None
        for some in [*key_groups(keys)] or [()]:
            request = evict_keys_request(some, dry_run=dry_run)
            answer = self._call(self._stub.EvictEmbeddings, request, timeout_s)
            evicted = read_evicted(answer, before=evicted)
        assert evicted is not None, "at least one call was made"
        return evicted

    def evict_unneeded(
        self,
        *,
        older_than_s: float | None = None,
        budget_bytes: int = 0,
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> Evicted:
        """Drop what no dataset and no pin needs, by age and by what may be left."""
        request = evict_unneeded_request(
            older_than_s=older_than_s, budget_bytes=budget_bytes, dry_run=dry_run
        )
        return read_evicted(self._call(self._stub.EvictEmbeddings, request, timeout_s))

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Return as soon as the server takes calls; raises if it does not within ``timeout_s``."""
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

    def _fetch(
        self, keys: Sequence[Digest], timeout_s: float | None
    ) -> Generator[tuple[Digest, bytes], None, list[Digest]]:
        """Do as ``_read`` for a few: in one message, as far as it holds them."""
        answer = self._call(self._stub.FetchEmbeddings, fetch_request(keys), timeout_s)
        fetched = read_fetched(answer, keys)
        yield from fetched.found
        missing = list(fetched.missing)
        if fetched.unsent:
            missing += yield from self._read(fetched.unsent, timeout_s)
        return missing

    def _read(
        self, keys: Sequence[Digest], timeout_s: float | None
    ) -> Generator[tuple[Digest, bytes], None, list[Digest]]:
        """Yield what one call gives and return the keys that are missing."""
        request_id, reader = str(uuid.uuid4()), EmbeddingReader(keys)
        request = pb.ReadEmbeddingsRequest(keys=[bytes.fromhex(key.hex) for key in keys])
        options = call_options(self._config, request_id, timeout_s)
        messages = self._stub.ReadEmbeddings(request, **options)
        try:
            with self._translating(request_id):
                for message in messages:
                    if (found := reader.feed(message)) is not None:
                        yield found
        finally:
            messages.cancel()
        return reader.finish()

    def _send(
        self, method: Callable[..., Any], messages: Iterator[Message], timeout_s: float | None
    ) -> Any:  # noqa: ANN401 - any message
        sending = Sending(sendable(messages, self._config.channel.max_message_bytes))
        try:
            return self._ask(method, iter(sending), timeout_s)
        except DiptychError as error:
            raise sending.problem or error from error

    def _call(self, method: Callable[..., Any], request: Message, timeout_s: float | None) -> Any:  # noqa: ANN401 - any message
        check_size(request, self._config.channel.max_message_bytes)
        return self._ask(method, request, timeout_s)

    def _ask(self, method: Callable[..., Any], asked: object, timeout_s: float | None) -> Any:  # noqa: ANN401 - any message
        request_id = str(uuid.uuid4())
        with self._translating(request_id):
            return method(asked, **call_options(self._config, request_id, timeout_s))

    @contextlib.contextmanager
    def _translating(self, request_id: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise meaning(error, self._config, request_id) from error

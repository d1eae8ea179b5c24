"""Values to EmbeddingCacheService's messages and back."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from google.protobuf.duration_pb2 import Duration

from diptych.clients.embedding_values import (
    CacheStats,
    EncodedEmbedding,
    EncodingStats,
    Evicted,
    ImageInput,
    ImagesCall,
    PromptsCall,
    TierStats,
)
from diptych.clients.message_fields import INT32, INT64, chosen, integer, unicode
from diptych.digest import Digest
from diptych.embeddings.key import Preprocessing
from diptych.errors import FieldViolation, InvalidRequest, ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import types_pb2 as types

__all__ = [
    "EmbeddingReader",
    "evict_keys_request",
    "evict_unneeded_request",
    "image_messages",
    "key_groups",
    "prompts_request",
    "read_encoded",
    "read_evicted",
    "read_key",
    "read_keys",
    "read_stats",
    "write_messages",
]

CHUNK_BYTES: Final = 1 << 20
MAX_KEYS: Final = 65_536
"""Of one call."""
MAX_VALUE_BYTES: Final = 256 << 20
STAGES: Final[Mapping[str | None, pb.EncoderStage.ValueType]] = {
    None: pb.ENCODER_STAGE_UNSPECIFIED,
    "base": pb.ENCODER_STAGE_BASE,
    "refiner": pb.ENCODER_STAGE_REFINER,
}
MODES: Final[Mapping[str | None, pb.CacheMode.ValueType]] = {
    None: pb.CACHE_MODE_UNSPECIFIED,
    "read_through": pb.CACHE_MODE_READ_THROUGH,
    "read_only": pb.CACHE_MODE_READ_ONLY,
    "bypass": pb.CACHE_MODE_BYPASS,
}
LONG_PROMPTS: Final[Mapping[str | None, types.LongPrompt.ValueType]] = {
    None: types.LONG_PROMPT_UNSPECIFIED,
    "error": types.LONG_PROMPT_ERROR,
    "truncate": types.LONG_PROMPT_TRUNCATE,
    "chunk": types.LONG_PROMPT_CHUNK,
}
SOURCES: Final = {
    pb.EMBEDDING_SOURCE_ENCODED: "encoded",
    pb.EMBEDDING_SOURCE_MEMORY: "memory",
    pb.EMBEDDING_SOURCE_DISK: "disk",
    pb.EMBEDDING_SOURCE_REMOTE: "remote",
}
KINDS: Final = {pb.EMBEDDING_KIND_PROMPT: "prompt", pb.EMBEDDING_KIND_IMAGE: "image"}


def prompts_request(call: PromptsCall, request_id: str) -> pb.EncodePromptsRequest:
    """Return the message that asks for texts' embeddings.

    Raises:
        InvalidRequest: A value is none that a message holds.
    """
    clip_skip = integer("clip_skip", call.clip_skip, INT32)
    min_windows = integer("min_windows", call.min_windows, INT32)
    return pb.EncodePromptsRequest(
        request_id=request_id,
        stage=chosen("stage", call.stage, STAGES),
        prompts=[
            pb.PromptInput(
                text=None if text is None else unicode(f"prompts[{number}].text", text),
                clip_skip=clip_skip,
                min_windows=min_windows,
            )
            for number, text in enumerate(call.prompts)
        ],
        mode=chosen("mode", call.mode, MODES),
        return_values=call.return_values,
        long_prompt=chosen("long_prompt", call.long_prompt, LONG_PROMPTS),
    )


def image_messages(call: ImagesCall, request_id: str) -> Iterator[pb.EncodeImagesRequest]:
    """Yield the messages of an EncodeImages call.

    Raises:
        InvalidRequest: A file cannot be read, or a value is none that a message holds.
    """
    header = pb.EncodeImagesHeader(
        request_id=request_id,
        stage=chosen("stage", call.stage, STAGES),
        mode=chosen("mode", call.mode, MODES),
        return_values=call.return_values,
    )
    yield pb.EncodeImagesRequest(header=header)
    for number, image in enumerate(call.images):
        data = _bytes_of(image, number)
        described = pb.ImageInput(
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
            preprocessing=_preprocessing(image.preprocessing),
            label=_label(image),
        )
        yield pb.EncodeImagesRequest(image=described)
        for chunk in _chunks(data):
            yield pb.EncodeImagesRequest(chunk=chunk)


def write_messages(entries: Iterable[tuple[Digest, bytes]]) -> Iterator[pb.WriteEmbeddingsRequest]:
    """Yield the messages that bring embeddings in."""
    for key, value in entries:
        header = pb.EmbeddingHeader(
            key=bytes.fromhex(key.hex),
            size_bytes=len(value),
            sha256=hashlib.sha256(value).digest(),
        )
        yield pb.WriteEmbeddingsRequest(header=header)
        for chunk in _chunks(value):
            yield pb.WriteEmbeddingsRequest(chunk=chunk)


def evict_keys_request(keys: Iterable[Digest], *, dry_run: bool) -> pb.EvictEmbeddingsRequest:
    """Return the message that drops some embeddings."""
    named = pb.EvictKeys(keys=[bytes.fromhex(key.hex) for key in keys])
    return pb.EvictEmbeddingsRequest(keys=named, dry_run=dry_run)


def evict_unneeded_request(
    *, older_than_s: float | None, budget_bytes: int, dry_run: bool
) -> pb.EvictEmbeddingsRequest:
    """Return the message that drops what nothing needs.

    Raises:
        InvalidRequest: A value is none that a message holds.
    """
    unneeded = pb.EvictUnneeded(budget_bytes=integer("budget_bytes", budget_bytes, INT64))
    if older_than_s is not None:
        try:
            unneeded.older_than.FromTimedelta(timedelta(seconds=older_than_s))
        except (OverflowError, ValueError) as error:
            problem = f"{older_than_s} is no number of seconds that a message holds"
            raise InvalidRequest(
                [FieldViolation(field="older_than", description=problem)]
            ) from error
    return pb.EvictEmbeddingsRequest(unneeded=unneeded, dry_run=dry_run)


def read_encoded(messages: Iterable[pb.EncodedEmbedding]) -> list[EncodedEmbedding]:
    """Return the embeddings that an answer names; equal keys have equal values."""
    values: dict[bytes, bytes] = {}
    found = []
    for message in messages:
        if message.value:
            values[message.key] = message.value
        found.append(
            EncodedEmbedding(
                key=read_key(message.key),
                source=SOURCES.get(message.source, "unknown"),
                size_bytes=message.size_bytes,
                value=values.get(message.key),
            )
        )
    return found


def read_key(data: bytes) -> Digest:
    """Return a key as a digest.

    Raises:
        ResponseCorrupt: It is none.
    """
    try:
        return Digest(hex=data.hex())
    except ValueError as error:
        raise ResponseCorrupt(f"a key of {len(data)} bytes") from error


def read_keys(keys: Iterable[bytes]) -> list[Digest]:
    """Return keys as digests."""
    return [read_key(key) for key in keys]


def read_stats(message: pb.GetCacheStatsResponse) -> CacheStats:
    """Return what ``message`` says of a cache."""
    return CacheStats(
        tiers=tuple(
            TierStats(
                tier=one.tier,
                num_entries=one.num_entries,
                size_bytes=one.size_bytes,
                limit_bytes=one.limit_bytes,
                num_hits=one.num_hits,
                num_misses=one.num_misses,
                num_evictions=one.num_evictions,
            )
            for one in message.tiers
        ),
        encodings=tuple(
            EncodingStats(
                kind=KINDS.get(one.kind, "unknown"),
                num_encoded=one.num_encoded,
                num_batches=one.num_batches,
                encode_s=_seconds(one.encode_time),
            )
            for one in message.encodings
        ),
        num_roots=message.num_roots,
        num_damaged=message.num_damaged,
    )


def read_evicted(message: pb.EvictEmbeddingsResponse, *, before: Evicted | None = None) -> Evicted:
    """Return what ``message`` says went, with what went ``before`` it."""
    return Evicted(
        num_evicted=message.num_evicted + (before.num_evicted if before else 0),
        evicted_bytes=message.evicted_bytes + (before.evicted_bytes if before else 0),
        num_kept=message.num_kept,
        kept_bytes=message.kept_bytes,
    )


class EmbeddingReader:
    """Puts the messages of one ReadEmbeddings call together; owned by the loop that reads them."""

    def __init__(self, keys: Iterable[Digest]) -> None:
        """Await ``keys``, each once."""
        self.missing: list[Digest] | None = None
        """Set by the last message."""
        self._awaited = {bytes.fromhex(key.hex) for key in keys}
        self._header: pb.EmbeddingHeader | None = None
        self._chunks: list[bytes] = []
        self._num_bytes = 0

    def feed(self, message: pb.ReadEmbeddingsResponse) -> tuple[Digest, bytes] | None:
        """Take the next message and return the embedding that it ends, if it ends one.

        Raises:
            ResponseCorrupt: It contradicts those before it, or bytes are not as announced.
        """
        kind = message.WhichOneof("part")
        if kind == "chunk":
            return self._append(message.chunk)
        if self._header is not None:
            raise ResponseCorrupt(f"an embedding ended at byte {self._num_bytes}")
        if kind == "header":
            if not 0 < message.header.size_bytes <= MAX_VALUE_BYTES:
                raise ResponseCorrupt(f"an embedding of {message.header.size_bytes} bytes")
            if message.header.key not in self._awaited:
                raise ResponseCorrupt(f"embedding {message.header.key.hex()[:64]}, not asked for")
            self._awaited.discard(message.header.key)
            self._header, self._chunks, self._num_bytes = message.header, [], 0
            if message.header.value:
                return self._append(message.header.value)
        elif kind == "missing":
            self.missing = read_keys(message.missing.keys)
        return None

    def finish(self) -> list[Digest]:
        """Return the keys that are missing.

        Raises:
            ResponseCorrupt: The stream ended too early.
        """
        if self.missing is None or self._header is not None or self._is_silent():
            raise ResponseCorrupt("a stream of embeddings ended too early")
        return self.missing

    def _is_silent(self) -> bool:
        """Tell whether a key neither came nor was named as missing."""
        return self._awaited != {bytes.fromhex(key.hex) for key in self.missing or ()}

    def _append(self, chunk: bytes) -> tuple[Digest, bytes] | None:
        if self._header is None:
            raise ResponseCorrupt("bytes of no embedding")
        self._chunks.append(chunk)
        self._num_bytes += len(chunk)
        if self._num_bytes < self._header.size_bytes:
            return None
        header, value = self._header, b"".join(self._chunks)
        self._header = None
        right = len(value) == header.size_bytes
        if not right or hashlib.sha256(value).digest() != header.sha256:
            raise ResponseCorrupt(f"embedding {header.key.hex()} has other bytes than announced")
        return read_key(header.key), value


def key_groups(keys: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    """Yield ``keys``, each once, as many at a time as a call takes."""
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), MAX_KEYS):
        yield distinct[start : start + MAX_KEYS]


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()


def _label(image: ImageInput) -> str:
    """Return what errors call an image; a file's name may hold bytes that are no text."""
    label = image.label or (image.data.name if isinstance(image.data, Path) else "")
    return label.encode(errors="replace").decode()


def _bytes_of(image: ImageInput, number: int) -> bytes:
    if isinstance(image.data, bytes):
        return image.data
    try:
        return image.data.read_bytes()
    except OSError as error:
        problem = f"{image.data} cannot be read: {error.strerror or error}"
        field = f"images[{number}].data"
        raise InvalidRequest([FieldViolation(field=field, description=problem)]) from error


def _preprocessing(found: Preprocessing) -> pb.ImagePreprocessing:
    left, top, width, height = found.crop
    red, green, blue = found.background
    if not all(0 <= part <= 255 for part in found.background):
        problem = f"{found.background} has parts that are not in [0, 255]"
        raise InvalidRequest([FieldViolation(field="background", description=problem)])
    return pb.ImagePreprocessing(
        resized_width=integer("resized", found.resized[0], INT32),
        resized_height=integer("resized", found.resized[1], INT32),
        crop_left=integer("crop", left, INT32),
        crop_top=integer("crop", top, INT32),
        crop_width=integer("crop", width, INT32),
        crop_height=integer("crop", height, INT32),
        is_flipped=found.is_flipped,
        resample=found.resample,
        ignore_orientation=found.orientation == "ignore",
        ignore_colour_profile=found.colour == "ignore",
        background=red << 16 | green << 8 | blue,
        frame=integer("frame", found.frame, INT32),
    )


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]

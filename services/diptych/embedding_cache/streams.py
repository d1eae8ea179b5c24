"""Streams of images and embeddings, put together from their messages and taken apart into them."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

from diptych.digest import Digest
from diptych.embedding_cache.receiving import Receiving
from diptych.embedding_cache.wire import ImageOrder, checked_keys, image_order
from diptych.embeddings.entry import MAX_ENTRY_BYTES
from diptych.errors import FieldViolation, InvalidRequest
from diptych.v1 import embedding_cache_pb2 as pb

__all__ = ["embedding_messages", "received_embeddings", "received_images"]

CHUNK_BYTES: Final = 1 << 20
SHA256_BYTES: Final = 32
MAX_IMAGE_BYTES: Final = 64 << 20
MAX_IMAGES_BYTES: Final = 256 << 20
"""Of one call; what came is in memory until it is encoded."""


async def received_images(
    messages: AsyncIterator[pb.EncodeImagesRequest],
) -> AsyncIterator[tuple[ImageOrder, bytes]]:
    """Yield each image with its bytes.

    Raises:
        InvalidRequest: They do not come as announced, or are too large together.
        DigestMismatch: One has other bytes than announced.
    """
    order: ImageOrder | None = None
    receiving: Receiving | None = None
    number = total_bytes = 0
    async for message in messages:
        part = message.WhichOneof("part")
        if part == "image" and receiving is None:
            order = image_order(message.image, number, MAX_IMAGE_BYTES)
            total_bytes += order.size_bytes
            if total_bytes > MAX_IMAGES_BYTES:
                problem = f"{total_bytes} bytes exceed the limit of {MAX_IMAGES_BYTES} of one call"
                raise _invalid("images", problem)
            receiving, number = Receiving(order, f"images[{number}]"), number + 1
        elif part == "chunk" and receiving is not None and order is not None:
            if (data := receiving.write(message.chunk)) is not None:
                receiving = None
                yield order, data
        elif receiving is not None:
            raise receiving.cut()
        else:
            raise _invalid("part", "after the header come images, each with its chunks")
    if receiving is not None:
        raise receiving.cut()


async def received_embeddings(
    messages: AsyncIterator[pb.WriteEmbeddingsRequest],
) -> AsyncIterator[tuple[Digest, bytes]]:
    """Yield each embedding with its key; raises as ``received_images`` does."""
    key: Digest | None = None
    receiving: Receiving | None = None
    async for message in messages:
        part = message.WhichOneof("part")
        if part == "header" and receiving is None:
            (key,) = checked_keys([message.header.key], field="header.key")
            if not 1 <= message.header.size_bytes <= MAX_ENTRY_BYTES:
                size = message.header.size_bytes
                raise _invalid("header.size_bytes", f"{size} is not in [1, {MAX_ENTRY_BYTES}]")
            if len(message.header.sha256) not in {0, SHA256_BYTES}:
                size = len(message.header.sha256)
                raise _invalid("header.sha256", f"{size} bytes are no SHA-256")
            if message.header.value:
                raise _invalid("header.value", "is not taken here; chunks follow the header")
            receiving = Receiving(message.header, f"embedding {key}")
        elif part == "chunk" and receiving is not None and key is not None:
            if (value := receiving.write(message.chunk)) is not None:
                receiving = None
                yield key, value
        elif receiving is not None:
            raise receiving.cut()
        else:
            raise _invalid("part", "a header comes first, then its chunks")
    if receiving is not None:
        raise receiving.cut()


def embedding_messages(
    key: Digest, value: bytes, sha256: bytes
) -> Iterator[pb.ReadEmbeddingsResponse]:
    """Yield the messages of one embedding: its header with its bytes, or then those in chunks.

    A message costs a third of a millisecond, so a value that fits has but one.
    """
    header = pb.EmbeddingHeader(key=bytes.fromhex(key.hex), size_bytes=len(value), sha256=sha256)
    if len(value) <= CHUNK_BYTES:
        header.value = value
        yield pb.ReadEmbeddingsResponse(header=header)
        return
    yield pb.ReadEmbeddingsResponse(header=header)
    for start in range(0, len(value), CHUNK_BYTES):
        yield pb.ReadEmbeddingsResponse(chunk=value[start : start + CHUNK_BYTES])


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=problem)])

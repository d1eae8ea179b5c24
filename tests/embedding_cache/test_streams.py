"""Streams of images and embeddings whose parts come in another order are refused."""

import hashlib
from collections.abc import AsyncIterator, Sequence

import pytest

from diptych.digest import Digest
from diptych.embedding_cache.streams import (
    embedding_messages,
    received_embeddings,
    received_images,
)
from diptych.errors import InvalidRequest
from diptych.v1 import embedding_cache_pb2 as pb

SIZES = pb.ImagePreprocessing(resized_width=64, resized_height=64, crop_width=64, crop_height=64)
KEY = Digest.of_bytes(b"key")


def image(size_bytes: int) -> pb.EncodeImagesRequest:
    described = pb.ImageInput(size_bytes=size_bytes, preprocessing=SIZES)
    return pb.EncodeImagesRequest(image=described)


def chunk(data: bytes) -> pb.EncodeImagesRequest:
    return pb.EncodeImagesRequest(chunk=data)


async def stream(
    messages: Sequence[pb.EncodeImagesRequest],
) -> AsyncIterator[pb.EncodeImagesRequest]:
    for message in messages:
        yield message


async def images(*messages: pb.EncodeImagesRequest) -> list[bytes]:
    return [data async for _, data in received_images(stream(messages))]


async def test_images_come_with_their_bytes() -> None:
    assert await images(image(3), chunk(b"ab"), chunk(b"c"), image(1), chunk(b"d")) == [
        b"abc",
        b"d",
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [chunk(b"a")],
        [image(3), image(3)],
        [image(3), chunk(b"ab")],
        [image(3), chunk(b"abcd")],
        [image(0)],
        [image(1 << 40)],
        [pb.EncodeImagesRequest(header=pb.EncodeImagesHeader())],
        [pb.EncodeImagesRequest()],
    ],
)
async def test_images_in_another_order_are_refused(
    messages: Sequence[pb.EncodeImagesRequest],
) -> None:
    with pytest.raises(InvalidRequest):
        await images(*messages)


async def test_images_that_are_too_large_together_are_refused() -> None:
    big = [message for _ in range(5) for message in (image(60 << 20), chunk(b"x" * (60 << 20)))]
    with pytest.raises(InvalidRequest, match="exceed the limit"):
        await images(*big)


async def test_embeddings_that_are_sent_are_received() -> None:
    value = b"v" * (3 << 20)

    async def sent() -> AsyncIterator[pb.WriteEmbeddingsRequest]:
        for message in embedding_messages(KEY, value, hashlib.sha256(value).digest()):
            if message.HasField("header"):
                yield pb.WriteEmbeddingsRequest(header=message.header)
            else:
                yield pb.WriteEmbeddingsRequest(chunk=message.chunk)

    assert [one async for one in received_embeddings(sent())] == [(KEY, value)]


async def test_embedding_that_ends_early_is_refused() -> None:
    async def sent() -> AsyncIterator[pb.WriteEmbeddingsRequest]:
        yield pb.WriteEmbeddingsRequest(
            header=pb.EmbeddingHeader(key=bytes.fromhex(KEY.hex), size_bytes=5)
        )

    with pytest.raises(InvalidRequest, match="0 bytes came"):
        [one async for one in received_embeddings(sent())]


async def test_embedding_whose_digest_is_none_is_refused() -> None:
    async def sent() -> AsyncIterator[pb.WriteEmbeddingsRequest]:
        key = bytes.fromhex(KEY.hex)
        header = pb.EmbeddingHeader(key=key, size_bytes=3, sha256=b"12")
        yield pb.WriteEmbeddingsRequest(header=header)
        yield pb.WriteEmbeddingsRequest(chunk=b"abc")

    with pytest.raises(InvalidRequest, match=r"header\.sha256: 2 bytes are no SHA-256"):
        [one async for one in received_embeddings(sent())]


async def test_embedding_inside_its_header_is_refused_where_chunks_are_awaited() -> None:
    async def sent() -> AsyncIterator[pb.WriteEmbeddingsRequest]:
        key = bytes.fromhex(KEY.hex)
        header = pb.EmbeddingHeader(key=key, size_bytes=3, value=b"abc")
        yield pb.WriteEmbeddingsRequest(header=header)

    with pytest.raises(InvalidRequest, match=r"header\.value"):
        [one async for one in received_embeddings(sent())]


def test_small_embedding_is_one_message() -> None:
    (message,) = embedding_messages(KEY, b"abc", b"")
    assert (message.header.value, message.header.size_bytes) == (b"abc", 3)

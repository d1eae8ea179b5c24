"""Streams are put together as announced; what contradicts itself is refused."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.clients.embedding_messages import (
    EmbeddingReader,
    evict_unneeded_request,
    image_messages,
    key_groups,
    prompts_request,
    read_encoded,
)
from diptych.clients.embedding_values import ImageInput, ImagesCall, PromptsCall
from diptych.digest import Digest
from diptych.embeddings.key import Preprocessing
from diptych.errors import InvalidRequest, ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb

KEY = Digest.of_bytes(b"key")
RAW = bytes.fromhex(KEY.hex)
VALUE = b"value"
HEADER = pb.EmbeddingHeader(key=RAW, size_bytes=len(VALUE), sha256=hashlib.sha256(VALUE).digest())
BEGIN = pb.ReadEmbeddingsResponse(header=HEADER)
END = pb.ReadEmbeddingsResponse(missing=pb.MissingKeys())
SQUARE = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))


def chunk(data: bytes) -> pb.ReadEmbeddingsResponse:
    return pb.ReadEmbeddingsResponse(chunk=data)


def fed(messages: Sequence[pb.ReadEmbeddingsResponse]) -> list[tuple[Digest, bytes]]:
    reader = EmbeddingReader([KEY])
    found = [reader.feed(message) for message in messages]
    reader.finish()
    return [one for one in found if one is not None]


def test_header_may_hold_the_embedding() -> None:
    header = pb.EmbeddingHeader()
    header.CopyFrom(HEADER)
    header.value = VALUE
    assert fed([pb.ReadEmbeddingsResponse(header=header), END]) == [(KEY, VALUE)]


def test_header_with_other_bytes_than_announced_is_refused() -> None:
    header = pb.EmbeddingHeader()
    header.CopyFrom(HEADER)
    header.value = b"vague"
    with pytest.raises(ResponseCorrupt):
        fed([pb.ReadEmbeddingsResponse(header=header), END])


def test_chunks_become_an_embedding() -> None:
    assert fed([BEGIN, chunk(b"va"), chunk(b"lue"), END]) == [(KEY, VALUE)]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [BEGIN, chunk(b"va")],
        [BEGIN, chunk(b"va"), END],
        [BEGIN, BEGIN],
        [chunk(b"va")],
        [BEGIN, chunk(b"value and more"), END],
        [BEGIN, chunk(b"vague"), END],
        [pb.ReadEmbeddingsResponse(header=pb.EmbeddingHeader(key=RAW, size_bytes=1 << 40))],
        [
            pb.ReadEmbeddingsResponse(
                header=pb.EmbeddingHeader(key=b"short", size_bytes=len(VALUE), sha256=HEADER.sha256)
            ),
            chunk(VALUE),
        ],
        [END],
        [BEGIN, chunk(VALUE), BEGIN, chunk(VALUE), END],
        [
            pb.ReadEmbeddingsResponse(
                header=pb.EmbeddingHeader(
                    key=bytes(32), size_bytes=len(VALUE), sha256=HEADER.sha256
                )
            ),
            chunk(VALUE),
            pb.ReadEmbeddingsResponse(missing=pb.MissingKeys(keys=[RAW])),
        ],
    ],
)
def test_stream_that_contradicts_itself_is_refused(
    messages: Sequence[pb.ReadEmbeddingsResponse],
) -> None:
    with pytest.raises(ResponseCorrupt):
        fed(messages)


def test_equal_keys_get_the_value_that_the_first_has() -> None:
    messages = [pb.EncodedEmbedding(key=RAW, value=VALUE), pb.EncodedEmbedding(key=RAW)]
    assert [one.value for one in read_encoded(messages)] == [VALUE, VALUE]


def test_image_goes_out_in_chunks_under_its_files_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * (2 << 20))
    call = ImagesCall(images=[ImageInput(data=path, preprocessing=SQUARE)])
    _, image, *chunks = image_messages(call, "r")
    assert (image.image.label, image.image.size_bytes) == ("a.png", 2 << 20)
    assert [len(one.chunk) for one in chunks] == [1 << 20, 1 << 20]


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    call = ImagesCall(images=[ImageInput(data=tmp_path / "absent.png", preprocessing=SQUARE)])
    with pytest.raises(InvalidRequest, match=r"images\[0\].data: .*absent.png cannot be read"):
        list(image_messages(call, "r"))


def test_every_step_of_preprocessing_is_sent() -> None:
    other = replace(SQUARE, orientation="ignore", colour="ignore", background=(1, 2, 3), frame=7)
    call = ImagesCall(images=[ImageInput(data=b"x", preprocessing=other)])
    sent = list(image_messages(call, "r"))[1].image.preprocessing
    assert (sent.ignore_orientation, sent.ignore_colour_profile) == (True, True)
    assert (sent.background, sent.frame) == (0x010203, 7)


def test_age_that_no_message_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="older_than"):
        evict_unneeded_request(older_than_s=1e300, budget_bytes=0, dry_run=True)


def test_keys_are_asked_for_once_and_in_groups() -> None:
    keys = [Digest.of_bytes(str(number).encode()) for number in range(70_000)]
    groups = list(key_groups([*keys, *keys]))
    assert [len(group) for group in groups] == [65_536, 70_000 - 65_536]


def test_background_that_is_no_colour_is_refused() -> None:
    other = replace(SQUARE, background=(-1, 300, 0))
    call = ImagesCall(images=[ImageInput(data=b"x", preprocessing=other)])
    with pytest.raises(InvalidRequest, match="background"):
        list(image_messages(call, "r"))


def test_text_that_utf8_cannot_spell_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"prompts\[1\]\.text: character 1 is half"):
        prompts_request(PromptsCall(prompts=["a", "b\ud800"]), "r")

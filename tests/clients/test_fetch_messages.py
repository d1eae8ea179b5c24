"""A few embeddings in one message are those that were asked for, byte for byte."""

import hashlib

import pytest

from diptych.clients.fetch_messages import fetch_request, read_fetched
from diptych.digest import Digest
from diptych.errors import ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb

FOUND, LOST, LARGE = (Digest.of_bytes(name) for name in (b"found", b"lost", b"large"))
VALUE = b"value"


def raw(key: Digest) -> bytes:
    return bytes.fromhex(key.hex)


def header(value: bytes = VALUE) -> pb.EmbeddingHeader:
    sha256 = hashlib.sha256(VALUE).digest()
    return pb.EmbeddingHeader(key=raw(FOUND), size_bytes=len(VALUE), sha256=sha256, value=value)


def test_keys_are_asked_for_in_order() -> None:
    assert list(fetch_request([LOST, FOUND]).keys) == [raw(LOST), raw(FOUND)]


def test_what_is_there_is_told_from_what_is_not_and_what_did_not_fit() -> None:
    message = pb.FetchEmbeddingsResponse(
        embeddings=[header()], missing=[raw(LOST)], unsent=[raw(LARGE)]
    )
    fetched = read_fetched(message, [FOUND, LOST, LARGE])
    assert fetched.found == ((FOUND, VALUE),)
    assert (fetched.missing, fetched.unsent) == ((LOST,), (LARGE,))


@pytest.mark.parametrize("value", [b"other", b"valu", b""])
def test_other_bytes_than_announced_are_refused(value: bytes) -> None:
    message = pb.FetchEmbeddingsResponse(embeddings=[header(value)])
    with pytest.raises(ResponseCorrupt, match="other bytes"):
        read_fetched(message, [FOUND])


@pytest.mark.parametrize(
    "message",
    [
        pb.FetchEmbeddingsResponse(),
        pb.FetchEmbeddingsResponse(embeddings=[header(), header()]),
        pb.FetchEmbeddingsResponse(embeddings=[header()], missing=[raw(FOUND)]),
        pb.FetchEmbeddingsResponse(unsent=[raw(LOST)]),
    ],
    ids=["silent", "twice", "there and not", "another"],
)
def test_answer_about_other_keys_is_refused(message: pb.FetchEmbeddingsResponse) -> None:
    with pytest.raises(ResponseCorrupt, match="asked for"):
        read_fetched(message, [FOUND])


def test_key_that_is_none_is_refused() -> None:
    with pytest.raises(ResponseCorrupt, match="key of 3 bytes"):
        read_fetched(pb.FetchEmbeddingsResponse(missing=[b"abc"]), [FOUND])

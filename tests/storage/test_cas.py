"""Bytes are stored only under their own digest, and what comes out is checked."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typing_extensions import override

from diptych.digest import Digest
from diptych.errors import BlobCorrupt, BlobNotFound, DigestMismatch, SourceUnavailable
from diptych.storage.blobs import BlobStore
from diptych.storage.cas import ContentStore, file_pieces
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryBlobs

DATA = b"the bytes of an adapter"
DIGEST = Digest.of_bytes(DATA)


@pytest.fixture
def content(blobs: BlobStore) -> ContentStore:
    return ContentStore(blobs, namespace="default")


class HealsItself(MemoryBlobs):
    """Damages what is read the first time."""

    num_reads = 0

    @override
    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        self.num_reads += 1
        data = b"".join(super().read(key, start=start, size_bytes=size_bytes))
        yield data if self.num_reads > 1 else data[::-1]


def test_gives_back_what_was_put(content: ContentStore) -> None:
    assert content.put_bytes(DATA) == DIGEST
    assert content.read_bytes(DIGEST) == DATA


def test_stores_a_file(content: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    assert content.put_file(tmp_path / "file") == DIGEST
    assert content.verify(DIGEST) == len(DATA)


def test_refuses_other_bytes_than_announced(content: ContentStore) -> None:
    with pytest.raises(DigestMismatch):
        content.put([DATA, b"!"], DIGEST)
    assert content.size_bytes(DIGEST) is None


def test_other_bytes_than_announced_do_not_harm_the_right_ones(content: ContentStore) -> None:
    content.put_bytes(DATA)
    with pytest.raises(DigestMismatch):
        content.put([DATA, b"!"], DIGEST)
    assert content.read_bytes(DIGEST) == DATA


def test_a_missing_blob_is_not_found(content: ContentStore) -> None:
    with pytest.raises(BlobNotFound, match=str(DIGEST)):
        content.read_bytes(DIGEST)


@pytest.mark.parametrize("damage", [DATA[:-1], b"", DATA[:-1] + b"!"])
def test_a_damaged_blob_is_corrupt_and_put_aside(content: ContentStore, damage: bytes) -> None:
    content.put_bytes(DATA)
    content.blobs.put(content.key(DIGEST), [damage])
    with pytest.raises(BlobCorrupt) as caught:
        content.read_bytes(DIGEST)
    assert caught.value.actual == str(Digest.of_bytes(damage))
    assert list(content.listing()) == []
    assert b"".join(content.blobs.read(f"default/quarantine/{DIGEST.hex}")) == damage


def test_a_blob_that_was_put_aside_stays_corrupt(content: ContentStore) -> None:
    content.blobs.put(content.key(DIGEST), [b"other"])
    for _ in range(2):
        with pytest.raises(BlobCorrupt):
            content.verify(DIGEST)


def test_putting_it_again_heals_a_blob(content: ContentStore) -> None:
    content.blobs.put(content.key(DIGEST), [b"other"])
    content.put_bytes(DATA)
    assert content.read_bytes(DIGEST) == DATA


def test_bytes_that_were_damaged_on_their_way_may_be_asked_for_again() -> None:
    content = ContentStore(HealsItself(), namespace="default")
    content.put_bytes(DATA)
    with pytest.raises(SourceUnavailable, match="damaged on its way"):
        content.read_bytes(DIGEST)
    assert content.read_bytes(DIGEST) == DATA


def test_says_in_the_log_what_was_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = ContentStore(LocalBlobs(tmp_path), namespace="default")
    content.blobs.put(content.key(DIGEST), [b"other"])
    with caplog.at_level(logging.ERROR, logger="diptych"), pytest.raises(BlobCorrupt):
        content.verify(DIGEST)
    assert f"blob {DIGEST} of {tmp_path} is corrupt" in caplog.text


def test_namespaces_do_not_see_each_other(blobs: BlobStore) -> None:
    ContentStore(blobs, namespace="one").put_bytes(DATA)
    assert ContentStore(blobs, namespace="two").size_bytes(DIGEST) is None


def test_lists_digests_and_sizes(content: ContentStore) -> None:
    digests = [content.put_bytes(b"x" * number) for number in range(1, 4)]
    assert sorted(content.listing()) == sorted(zip(digests, (1, 2, 3), strict=True))


def test_deletes_a_blob(content: ContentStore) -> None:
    content.delete(content.put_bytes(DATA))
    assert content.size_bytes(DIGEST) is None


def test_a_file_comes_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * 2**20))
    assert [len(piece) for piece in file_pieces(tmp_path / "file")] == [2**20] * 3


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_other_bytes_never_come_out_of_a_digest(data: bytes, stored: bytes) -> None:
    assume(data != stored)
    content = ContentStore(MemoryBlobs(), namespace="default")
    digest = content.put_bytes(data)
    content.blobs.put(content.key(digest), [stored])
    with pytest.raises(BlobCorrupt):
        content.read_bytes(digest)

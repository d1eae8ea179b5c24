"""Every blob store keeps bytes whole, and its keys in its own folder or prefix."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from diptych.errors import BlobNotFound, InvalidRequest
from diptych.storage.blobs import BlobStore, check_key, folder_of

DATA = bytes(range(256)) * 5000


def broken() -> Iterator[bytes]:
    yield b"half"
    raise InterruptedError


def keys(blobs: BlobStore, prefix: str = "") -> list[str]:
    return [info.key for info in blobs.listing(prefix)]


def test_gives_back_what_was_put(blobs: BlobStore) -> None:
    assert blobs.put("a/b", [DATA[:7], b"", DATA[7:]]) == len(DATA)
    assert b"".join(blobs.read("a/b")) == DATA


def test_keeps_a_blob_of_no_bytes(blobs: BlobStore) -> None:
    assert blobs.put("a", []) == 0
    assert b"".join(blobs.read("a")) == b""


@pytest.mark.parametrize(
    ("start", "size_bytes"), [(0, 5), (3, 0), (1_048_570, 20), (5, None), (1_279_999, 9)]
)
def test_reads_a_range(blobs: BlobStore, start: int, size_bytes: int | None) -> None:
    blobs.put("a", [DATA])
    end = None if size_bytes is None else start + size_bytes
    assert b"".join(blobs.read("a", start=start, size_bytes=size_bytes)) == DATA[start:end]


def test_a_range_behind_the_end_is_empty(blobs: BlobStore) -> None:
    blobs.put("a", [b"123"])
    assert list(blobs.read("a", start=3)) == []


def test_a_put_that_breaks_leaves_nothing(blobs: BlobStore) -> None:
    with pytest.raises(InterruptedError):
        blobs.put("a", broken())
    assert blobs.find("a") is None
    assert keys(blobs) == []


def test_a_put_that_breaks_leaves_the_blob_before_it(blobs: BlobStore) -> None:
    blobs.put("a", [b"old"])
    with pytest.raises(InterruptedError):
        blobs.put("a", broken())
    assert b"".join(blobs.read("a")) == b"old"


def test_finds_a_blobs_size(blobs: BlobStore) -> None:
    blobs.put("a", [b"123"])
    found = blobs.find("a")
    assert found is not None
    assert (found.key, found.size_bytes) == ("a", 3)


def test_tells_when_a_blob_was_written(blobs: BlobStore) -> None:
    blobs.put("a", [b"12"])
    blobs.put("b", [b"12"])
    first, second = blobs.listing("")
    found = blobs.find("a")
    assert found is not None
    assert int(found.modified_s) == int(first.modified_s)
    assert 0 <= second.modified_s - first.modified_s < 60
    assert datetime.now(UTC).timestamp() - first.modified_s < 60


def test_lists_what_has_the_prefix_in_order(blobs: BlobStore) -> None:
    for key in ("n/b", "n/a", "n/a-b/c", "n/a=1", "other", "n2/x"):
        blobs.put(key, [b"1"])
    assert keys(blobs, "n/") == ["n/a", "n/a-b/c", "n/a=1", "n/b"]
    assert keys(blobs, "n/a") == ["n/a", "n/a-b/c", "n/a=1"]
    assert keys(blobs, "none/") == []


def test_deletes_a_blob_once_or_twice(blobs: BlobStore) -> None:
    blobs.put("a", [b"123"])
    blobs.delete("a")
    blobs.delete("a")
    assert blobs.find("a") is None


def test_moves_a_blob(blobs: BlobStore) -> None:
    blobs.put("a", [b"123"])
    blobs.move("a", "aside/a")
    assert (keys(blobs), b"".join(blobs.read("aside/a"))) == (["aside/a"], b"123")


def test_a_missing_blob_is_not_found(blobs: BlobStore) -> None:
    with pytest.raises(BlobNotFound):
        list(blobs.read("a"))
    with pytest.raises(BlobNotFound):
        blobs.move("a", "b")


BAD_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a\0", "a b", "a\\b", "x" * 1000]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_refuses_a_key_that_could_leave_its_folder(key: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a key of a store"):
        check_key(key)


def test_no_store_writes_where_a_key_would_leave_it(blobs: BlobStore) -> None:
    with pytest.raises(InvalidRequest):
        blobs.put("../a", [b""])


def test_the_folder_of_a_prefix_is_what_stands_before_its_last_slash() -> None:
    assert [folder_of(prefix) for prefix in ("", "a", "a/b", "a/b/")] == ["", "", "a", "a/b"]


def test_refuses_a_prefix_that_leaves_the_store() -> None:
    with pytest.raises(InvalidRequest):
        folder_of("../a")

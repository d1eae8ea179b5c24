"""Stores in memory are stores, with a limit."""

import pytest

from diptych.errors import StoreFull
from diptych.storage.memory import MemoryBlobs, MemoryRefs


def test_are_called_memory() -> None:
    assert (MemoryBlobs().location, MemoryRefs().location) == ("memory", "memory")


def test_have_no_files() -> None:
    found: object = MemoryBlobs().local_path
    assert callable(found)
    assert found("a") is None


def test_take_no_more_than_their_limit() -> None:
    blobs = MemoryBlobs(limit_bytes=10)
    blobs.put("a", [b"12345"])
    with pytest.raises(StoreFull, match="no room for 6 bytes"):
        blobs.put("b", [b"123456"])
    assert [info.key for info in blobs.listing("")] == ["a"]


def test_a_blob_may_be_replaced_within_the_limit() -> None:
    blobs = MemoryBlobs(limit_bytes=10)
    blobs.put("a", [b"12345678"])
    assert blobs.put("a", [b"123456789"]) == 9

"""Bytes are taken in as announced, or refused."""

from dataclasses import dataclass
from hashlib import sha256

import pytest

from diptych.embedding_cache.receiving import Receiving
from diptych.errors import DigestMismatch, InvalidRequest


@dataclass(frozen=True)
class Announced:
    size_bytes: int = 4
    sha256: bytes = b""


def test_last_chunk_completes_the_bytes() -> None:
    receiving = Receiving(Announced(sha256=sha256(b"data").digest()), "x")
    assert receiving.write(b"da") is None
    assert receiving.write(b"ta") == b"data"


@pytest.mark.parametrize("chunk", [b"", b"data!"])
def test_chunk_that_cannot_be_is_refused(chunk: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^x: "):
        Receiving(Announced(), "x").write(chunk)


def test_other_bytes_than_announced_are_refused() -> None:
    with pytest.raises(DigestMismatch):
        Receiving(Announced(sha256=sha256(b"tada").digest()), "x").write(b"data")


def test_early_end_says_how_much_came() -> None:
    receiving = Receiving(Announced(), "x")
    receiving.write(b"d")
    assert str(receiving.cut()) == "x: 1 bytes came, announced were 4"

"""What FetchEmbeddings answers, checked against what was asked for and against its digests."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diptych.clients.embedding_messages import read_key, read_keys
from diptych.digest import Digest
from diptych.errors import ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb

__all__ = ["MAX_FETCHED", "Fetched", "fetch_request", "read_fetched"]

MAX_FETCHED: Final = 8
"""Keys of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A few embeddings."""

    found: tuple[tuple[Digest, bytes], ...]
    missing: tuple[Digest, ...]
    unsent: tuple[Digest, ...]
    """That are there and did not fit the message."""


def fetch_request(keys: Sequence[Digest]) -> pb.FetchEmbeddingsRequest:
    """Return the message that asks for ``keys``, at most ``MAX_FETCHED`` of them."""
    return pb.FetchEmbeddingsRequest(keys=[bytes.fromhex(key.hex) for key in keys])


def read_fetched(message: pb.FetchEmbeddingsResponse, keys: Sequence[Digest]) -> Fetched:
    """Return what ``message`` says of ``keys``, each of which was asked for once.

    Raises:
        ResponseCorrupt: Bytes are not as announced, or other keys are spoken of.
    """
    fetched = Fetched(
        found=tuple((read_key(one.key), _value(one)) for one in message.embeddings),
        missing=tuple(read_keys(message.missing)),
        unsent=tuple(read_keys(message.unsent)),
    )
    told = [*(key for key, _ in fetched.found), *fetched.missing, *fetched.unsent]
    if sorted(told) != sorted(keys):
        raise ResponseCorrupt(f"{len(keys)} embeddings were asked for, of others was told")
    return fetched


def _value(header: pb.EmbeddingHeader) -> bytes:
    value = header.value
    right = len(value) == header.size_bytes
    if not right or hashlib.sha256(value).digest() != header.sha256:
        raise ResponseCorrupt(f"embedding {header.key.hex()[:64]} has other bytes than announced")
    return value

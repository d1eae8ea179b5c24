"""Embeddings as tensors, remembered within a bound."""

from collections.abc import Iterator, Sequence

import pytest
from typing_extensions import override

from diptych.clients.obtaining import PromptWanted
from diptych.digest import Digest
from diptych.errors import EmbeddingMissing, ServerUnreachable
from diptych.training.embedding_reading import EmbeddingReader
from support.memory_embeddings import ENCODERS, MemoryCache


def wanted(*texts: str) -> list[PromptWanted]:
    return [PromptWanted(key=ENCODERS.prompt_record(text).key(), text=text) for text in texts]


def a_reader(cache: MemoryCache, *, memory_bytes: int = 2**20) -> EmbeddingReader:
    return EmbeddingReader(cache, stage="base", memory_bytes=memory_bytes)


def test_what_is_missing_is_made_and_kept() -> None:
    cache = MemoryCache()
    (found,) = a_reader(cache).tensors(wanted("a"), mode="read_through").values()
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        "hidden": (7, 6),
        "pooled": (5,),
    }
    assert len(cache.kept) == 1


def test_what_was_read_is_not_read_again() -> None:
    cache = MemoryCache()
    reader = a_reader(cache)
    first = reader.tensors(wanted("a", "b"), mode="read_through")
    num_reads = cache.num_reads
    assert reader.tensors(wanted("b", "a"), mode="read_through").keys() == first.keys()
    assert cache.num_reads == num_reads


def test_what_was_read_longest_ago_is_forgotten_first() -> None:
    cache = MemoryCache()
    reader = a_reader(cache, memory_bytes=2 * (7 * 6 + 5) * 4)
    for text in ("a", "b", "a", "c"):
        reader.tensors(wanted(text), mode="read_through")
    num_reads = cache.num_reads
    reader.tensors(wanted("a", "c"), mode="read_through")
    assert cache.num_reads == num_reads
    reader.tensors(wanted("b"), mode="read_through")
    assert cache.num_reads == num_reads + 1


def test_bypass_makes_them_each_time_and_keeps_nothing() -> None:
    cache = MemoryCache()
    reader = a_reader(cache)
    for _ in range(2):
        reader.tensors(wanted("a"), mode="bypass")
    assert (cache.num_encoded, len(cache.kept)) == (2, 0)


def test_read_only_makes_nothing() -> None:
    cache = MemoryCache()
    with pytest.raises(EmbeddingMissing):
        a_reader(cache).tensors(wanted("a"), mode="read_only")
    assert cache.num_encoded == 0


class Gone(MemoryCache):
    """Does not answer the first few times."""

    num_refusals = 1

    @override
    def read(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        if self.num_refusals:
            self.num_refusals -= 1
            raise ServerUnreachable(address="cache", detail="gone")
        return super().read(keys)


def test_a_cache_that_comes_back_is_asked_again() -> None:
    cache = Gone()
    assert len(a_reader(cache).tensors(wanted("a"), mode="read_through")) == 1
    assert cache.num_refusals == 0


def test_patience_with_a_cache_that_is_gone_ends() -> None:
    cache = Gone()
    reader = EmbeddingReader(cache, stage=None, memory_bytes=1, patience_s=0.0)
    with pytest.raises(ServerUnreachable):
        reader.tensors(wanted("a"), mode="read_through")


def test_a_cache_is_not_waited_for_once_a_stop_is_asked() -> None:
    cache = Gone()
    reader = EmbeddingReader(
        cache, stage=None, memory_bytes=1, patience_s=60.0, is_asked_to_stop=lambda: True
    )
    with pytest.raises(ServerUnreachable):
        reader.tensors(wanted("a"), mode="read_through")

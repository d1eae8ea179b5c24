"""Answers hold as many values as a message has room for."""

import pytest

from diptych.digest import Digest
from diptych.embedding_cache.answers import encoded_embeddings, fetched
from diptych.embedding_cache.ports import Found
from diptych.errors import InvalidRequest

KEYS = [Digest.of_bytes(bytes([number])) for number in range(3)]
MIB = 1 << 20


def found(size_bytes: int) -> dict[Digest, Found]:
    value = b"x" * size_bytes
    return {key: Found(source="disk", size_bytes=size_bytes, value=value) for key in KEYS}


def test_values_that_do_not_fit_are_left_to_be_read() -> None:
    messages = encoded_embeddings(KEYS, found(2 * MIB), is_all=False)
    assert [len(one.value) for one in messages] == [2 * MIB, 0, 0]
    assert [one.size_bytes for one in messages] == [2 * MIB] * 3


def test_equal_keys_have_their_value_once() -> None:
    messages = encoded_embeddings([KEYS[0], KEYS[0]], found(8), is_all=True)
    assert [len(one.value) for one in messages] == [8, 0]


def test_values_that_nothing_else_has_must_fit() -> None:
    with pytest.raises(InvalidRequest, match="ask for fewer"):
        encoded_embeddings(KEYS, found(2 * MIB), is_all=True)


def test_fetch_names_what_is_missing_and_what_did_not_fit() -> None:
    values = {KEYS[0]: b"x" * 2 * MIB, KEYS[2]: b"x" * 2 * MIB}
    answer = fetched(KEYS, {key: (value, b"s" * 32) for key, value in values.items()})
    assert [len(one.value) for one in answer.embeddings] == [2 * MIB]
    assert list(answer.missing) == [bytes.fromhex(KEYS[1].hex)]
    assert list(answer.unsent) == [bytes.fromhex(KEYS[2].hex)]

"""The table finds what a dictionary would, in a hundredth of its memory."""

import secrets
import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.embeddings.key_table import KeyTable, keys_of
from diptych.embeddings.pack import ROW, Rows

KEYS = st.integers(0, 30).map(lambda number: number.to_bytes(8, "big") + bytes([number % 3]) * 24)


def rows_of(*keys: bytes) -> Rows:
    rows = np.zeros(len(keys), ROW)
    rows["key"] = keys_of(b"".join(keys))
    rows["offset"] = np.arange(len(keys))
    return rows


@given(packs=st.lists(st.lists(KEYS, min_size=1, max_size=6, unique=True), max_size=12), key=KEYS)
def test_finds_every_place_of_a_key(packs: list[list[bytes]], key: bytes) -> None:
    table = KeyTable()
    for number, keys in enumerate(packs):
        table.add([(number, rows_of(*keys))])
    expected = {number for number, keys in enumerate(packs) if key in keys}
    assert {place.pack for place in table.find(key)} == expected
    rows, numbers = table.find_many(keys_of(key))
    assert {int(numbers[0])} <= (expected or {-1})
    assert not expected or rows["key"][0].tobytes() == key
    assert len(table) == sum(len(keys) for keys in packs)
    assert sorted(table.each_key()) == sorted({key for keys in packs for key in keys})


@given(packs=st.lists(st.lists(KEYS, min_size=1, max_size=6, unique=True), min_size=2, max_size=9))
def test_what_was_dropped_is_not_found(packs: list[list[bytes]]) -> None:
    table = KeyTable()
    table.add([(number, rows_of(*keys)) for number, keys in enumerate(packs)])
    table.drop_packs({0})
    table.drop(packs[1][0], 1)
    table.add([(99, rows_of(b"z" * 32))])
    assert 0 not in {place.pack for keys in packs for key in keys for place in table.find(key)}
    assert 1 not in {place.pack for place in table.find(packs[1][0])}
    assert [place.pack for place in table.find(b"z" * 32)] == [99]


def test_keys_that_differ_only_at_their_ends_are_told_apart() -> None:
    one, other = b"x" * 31 + b"1", b"x" * 31 + b"2"
    table = KeyTable()
    table.add([(1, rows_of(one)), (2, rows_of(other))])
    assert [place.pack for place in table.find(other)] == [2]
    assert table.find_many(keys_of(one + other + b"x" * 32))[1].tolist() == [1, 2, -1]


def test_an_empty_table_finds_nothing() -> None:
    table = KeyTable()
    table.add([])
    assert (len(table), table.find(b"x" * 32), list(table.each_key())) == (0, [], [])


def test_a_hundred_thousand_entries_take_a_hundred_bytes_each() -> None:
    tracemalloc.start()
    table = KeyTable()
    for number in range(500):
        table.add([(number, rows_of(*(secrets.token_bytes(32) for _ in range(200))))])
    current_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 100_000
    assert current_bytes < 100 * len(table)

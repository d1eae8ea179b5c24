"""Draws are named by what they are for, and never change."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets.draws import (
    drawn_below,
    drawn_bits,
    drawn_order,
    drawn_shares,
    drawn_words,
    share_of,
)

WORDS = st.integers(0, 2**64 - 1)


def test_numbers_are_those_of_every_release() -> None:
    assert drawn_words("crop", 1)[:2] == (0x715AD1A440910F0D, 0xA42859ABDAAAEE39)
    assert drawn_bits(2, "a", 1).tolist() == [15588339249171645999, 3440768478199181393]
    assert drawn_order(6, "o", 2).tolist() == [3, 1, 5, 4, 0, 2]


@given(word=WORDS, limit=st.integers(1, 10**6))
def test_a_number_falls_below_its_limit(word: int, limit: int) -> None:
    assert 0 <= drawn_below(limit, word) < limit
    assert 0.0 <= share_of(word) < 1.0


def test_a_longer_draw_begins_with_the_shorter() -> None:
    assert drawn_bits(100, "x").tolist()[:7] == drawn_bits(7, "x").tolist()


def test_every_part_changes_what_is_drawn() -> None:
    found = {drawn_words(*parts) for parts in [("a",), ("b",), ("a", 0), ("a", 1), ("a", "1")]}
    assert len(found) == 5


@given(count=st.integers(0, 200))
def test_an_order_has_each_once(count: int) -> None:
    assert sorted(drawn_order(count, "o", count).tolist()) == list(range(count))


def test_shares_are_even() -> None:
    shares = drawn_shares(20_000, "even")
    assert np.abs(np.histogram(shares, bins=10, range=(0, 1))[0] / 20_000 - 0.1).max() < 0.01

"""Thresholds are the numbers a sort would find, and elections go as TIES counts them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.kernels.trim_elect import (
    Election,
    magnitude_threshold,
    trim_elect,
)
from support.made_adapters import noise

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def elected(
    *vectors: list[float],
    weights: list[float] | None = None,
    votes: list[float] | None = None,
    threshold: float = 0.0,
    election: Election = "total",
) -> list[float]:
    ones = [1.0] * len(vectors)
    merged = trim_elect(
        torch.tensor(vectors),
        torch.tensor(weights or ones),
        votes=torch.tensor(votes or ones),
        thresholds=torch.full((len(vectors),), threshold),
        election=election,
    )
    return [round(value, 6) for value in merged.tolist()]


@settings(deadline=None)
@given(values=st.lists(FLOATS, min_size=1, max_size=50), data=st.data())
def test_the_threshold_is_what_sorting_finds(values: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(values)))
    tensor = torch.tensor(values)
    assert magnitude_threshold(tensor, keep) == tensor.abs().sort(descending=True).values[keep - 1]


def test_nothing_passes_the_threshold_of_none() -> None:
    assert magnitude_threshold(torch.ones(4), 0) == math.inf


def test_the_larger_total_wins_and_the_others_take_no_part() -> None:
    assert elected([3.0, -1.0], [-2.0, -4.0], [-2.0, 6.0]) == [-2.0, 6.0]


def test_more_signs_win_an_election_by_frequency() -> None:
    assert elected([6.0], [-2.0], [-1.0], election="frequency") == [-1.5]


def test_those_with_the_elected_sign_are_averaged() -> None:
    assert elected([3.0], [1.0], [-1.0]) == [2.0]


def test_weights_do_not_vote_by_themselves() -> None:
    assert elected([3.0], [-2.0], weights=[0.1, 1.0]) == [0.3]


def test_weights_vote_when_they_are_votes() -> None:
    assert elected([3.0], [-2.0], weights=[0.1, 1.0], votes=[0.1, 1.0]) == [-2.0]


def test_votes_count_in_an_election_by_frequency() -> None:
    kept = elected([1.0], [1.0], [-1.0], votes=[1.0, 1.0, 3.0], election="frequency")
    assert kept == [-1.0]


def test_a_negative_vote_is_one_for_the_other_sign() -> None:
    assert elected([3.0], [2.0], weights=[-1.0, 1.0], votes=[-1.0, 1.0]) == [-3.0]


def test_what_is_trimmed_neither_votes_nor_counts() -> None:
    assert elected([0.5], [-2.0], [-4.0], threshold=1.0) == [-3.0]


def test_where_all_is_trimmed_nothing_is_left() -> None:
    assert elected([0.5], [-0.5], threshold=1.0) == [0.0]


def test_a_tie_elects_plus() -> None:
    assert elected([2.0], [-2.0]) == [2.0]


@settings(deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 4))
def test_equals_merge_to_themselves(seed: int, count: int) -> None:
    values = noise(50, seed=seed)
    assert elected(*[values.tolist()] * count) == pytest.approx(values.tolist(), abs=1e-6)


def test_long_vectors_are_merged_piece_by_piece_alike() -> None:
    vectors = noise(3, 70_000)
    assert torch.equal(whole(vectors)[-500:], whole(vectors[:, -500:]))


def whole(vectors: Tensor) -> Tensor:
    ones = torch.ones(len(vectors))
    return trim_elect(vectors, ones, votes=ones, thresholds=0.5 * ones, election="total")

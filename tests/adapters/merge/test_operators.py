"""Dropping leaves the mean alone, trimming keeps the largest, and an arc keeps its length."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.adapters.merge.draws import Draw
from diptych.adapters.merge.operators import (
    combine,
    drop_at_random,
    drop_by_magnitude,
    slerp_weights,
    thresholds_of,
)
from diptych.adapters.merge.spec import MergeSpec
from support.made_adapters import noise
from support.updates import FIRST

WIDTH = 8


def draws(count: int, seed: int = 0) -> list[Draw]:
    return [Draw(seed, position, FIRST) for position in range(count)]


def combined(vectors: Tensor, spec: MergeSpec, seed: int = 0) -> Tensor:
    weights = spec.weights_of(len(vectors))
    return combine(vectors.clone(), weights, spec, draws(len(vectors), seed), WIDTH)


def mean_of_draws(spec: MergeSpec, vectors: Tensor, count: int = 1000) -> Tensor:
    return torch.stack([combined(vectors, spec, seed) for seed in range(count)]).double().mean(0)


def deviation(values: Tensor, chance: float, count: int = 1000) -> Tensor:
    """Return the standard deviation of the mean of ``count`` draws of kept-or-zero values."""
    return values.abs().double() * math.sqrt((1 - chance) / chance / count)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_the_mean_of_a_thousand_dare_draws_is_the_update(density: float) -> None:
    values = noise(1, 4000)
    found = mean_of_draws(MergeSpec(method="dare_linear", density=density), values)
    off = (found - values[0]).abs() / deviation(values[0], density)
    assert float(off.max()) < 5
    assert float(off.square().mean()) == pytest.approx(1, abs=0.1)


def test_the_mean_of_a_thousand_della_draws_is_the_update() -> None:
    values = noise(1, 200)
    spec = MergeSpec(method="della_linear", density=0.5, epsilon=0.4)
    off = (mean_of_draws(spec, values) - values[0]).abs() / deviation(values[0], 0.3)
    assert float(off.max()) < 5


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_multiplies_what_it_keeps(method: str) -> None:
    merged = combined(torch.ones(1, 1000), MergeSpec(method=method, density=0.25))
    assert set(merged.tolist()) == {0.0, 4.0}


def test_dropping_leaves_what_it_keeps_as_it_was() -> None:
    values = torch.ones(1000)
    drop_at_random(values, 0.3, Draw(0, 0, FIRST))
    assert set(values.tolist()) == {0.0, 1.0}


def test_della_keeps_large_values_more_often() -> None:
    values = torch.arange(1.0, 1001.0).repeat(50)
    drop_by_magnitude(values, 0.5, 0.8, Draw(0, 0, FIRST), width=1000)
    kept = (values.view(50, 1000) != 0).double().mean(dim=0)
    assert (float(kept[:100].mean()), float(kept[-100:].mean())) == pytest.approx(
        (0.14, 0.86), abs=0.03
    )


def test_della_without_spread_drops_as_dare_does() -> None:
    one, other = noise(64), noise(64)
    drop_at_random(one, 0.5, Draw(4, 0, FIRST))
    drop_by_magnitude(other, 0.5, 0.0, Draw(4, 0, FIRST), width=8)
    assert torch.allclose(2 * one, other)


def test_della_ranks_a_row_of_one_in_the_middle() -> None:
    values = torch.ones(1000)
    drop_by_magnitude(values, 0.5, 0.4, Draw(0, 0, FIRST), width=1)
    assert set(values.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(("density", "kept"), [(0.5, 5), (0.19, 1), (0.05, 0), (1.0, 10)])
def test_as_many_are_kept_as_the_density_says_rounded_down(density: float, kept: int) -> None:
    values = noise(1, 10)
    assert int((values.abs() >= thresholds_of(values, density)[0]).sum()) == kept


def test_pruning_sums_the_largest_of_each() -> None:
    vectors = torch.tensor([[3.0, 1.0, -2.0, 0.5], [0.1, -4.0, 0.2, 5.0]])
    spec = MergeSpec(method="magnitude_prune", density=0.5, weights=(2.0, 1.0))
    assert combined(vectors, spec).tolist() == [6.0, -4.0, -4.0, 5.0]


@settings(deadline=None)
@given(seed=st.integers(0, 100), method=st.sampled_from(["ties", "dare_ties", "della"]))
def test_equals_that_are_not_dropped_stay_the_same(seed: int, method: str) -> None:
    values = noise(32, seed=seed)
    merged = combined(torch.stack([values] * 3), MergeSpec(method=method, density=1.0))
    assert torch.allclose(merged, values)


def test_user_weights_vote_unless_told_not_to() -> None:
    vectors = torch.tensor([[3.0], [-2.0]])
    found = [
        combined(
            vectors,
            MergeSpec(method="ties", density=1.0, weights=(0.1, 1.0), weighted_vote=vote),
        ).item()
        for vote in (None, True, False)
    ]
    assert found == pytest.approx([-2.0, -2.0, 0.3])


ANGLES = st.floats(0.1, 3.0)


@settings(deadline=None)
@given(angle=ANGLES, position=st.floats(0, 1), lengths=st.tuples(*[st.floats(0.1, 10)] * 2))
def test_an_arc_turns_evenly_and_its_length_changes_evenly(
    angle: float, position: float, lengths: tuple[float, float]
) -> None:
    first = torch.tensor([lengths[0], 0.0], dtype=torch.float64)
    second = lengths[1] * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    weights = slerp_weights((lengths[0] ** 2, lengths[1] ** 2), float(first @ second), position)
    between = weights[0] * first + weights[1] * second
    assert float(between.norm()) == pytest.approx(
        (1 - position) * lengths[0] + position * lengths[1], rel=1e-6
    )
    assert math.atan2(between[1], between[0]) == pytest.approx(position * angle, abs=1e-6)


@pytest.mark.parametrize(
    ("energies", "inner"), [((1.0, 1.0), 1.0), ((1.0, 1.0), -1.0), ((0.0, 1.0), 0.0)]
)
def test_where_there_is_no_arc_the_line_is_taken(
    energies: tuple[float, float], inner: float
) -> None:
    assert slerp_weights(energies, inner, 0.25) == (0.75, 0.25)

"""A stage's timesteps are drawn as often as asked, evenly within a batch, and no others ever."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diptych.diffusion.split import base_timesteps, refiner_timesteps
from diptych.diffusion.timestep_draws import range_probabilities, stratified_timesteps

BASE = base_timesteps(1000, 0.65)
REFINER = refiner_timesteps(1000, 0.65)
BATCH_SIZES = (1, 2, 3, 8)
JUST_BELOW_ONE = float(np.nextafter(1.0, 0.0))

RANGES = st.builds(
    lambda start, length: range(start, start + length), st.integers(0, 999), st.integers(1, 1000)
)


def draw_many(
    timesteps: range, probabilities: np.ndarray, *, batch_size: int, num: int
) -> np.ndarray:
    """Return ``num`` batches, [num, batch_size]."""
    rng = np.random.default_rng(0)
    batches = [
        stratified_timesteps(
            timesteps,
            probabilities,
            uniforms=rng.random(batch_size),
            order=rng.permutation(batch_size),
        )
        for _ in range(num)
    ]
    return np.stack(batches)


@given(
    timesteps=RANGES,
    uniforms=st.lists(
        st.floats(0.0, JUST_BELOW_ONE) | st.sampled_from([0.0, JUST_BELOW_ONE]),
        min_size=1,
        max_size=9,
    ),
    multiplier=st.floats(1e-3, 1e3),
    biased=RANGES,
    random=st.randoms(use_true_random=False),
)
def test_nothing_lies_outside_the_range_at_any_batch_size(
    timesteps: range, uniforms: list[float], multiplier: float, biased: range, random: Random
) -> None:
    order = list(range(len(uniforms)))
    random.shuffle(order)
    probabilities = range_probabilities(timesteps, multiplier=multiplier, biased=biased)
    drawn = stratified_timesteps(timesteps, probabilities, uniforms=uniforms, order=order)
    assert drawn.dtype == np.int64
    assert all(int(t) in timesteps for t in drawn)


@pytest.mark.parametrize("timesteps", [BASE, REFINER], ids=["base", "refiner"])
def test_a_batch_of_one_draws_from_its_stages_whole_range_only(timesteps: range) -> None:
    drawn = draw_many(timesteps, range_probabilities(timesteps), batch_size=1, num=12_000)
    assert set(drawn.ravel().tolist()) == set(timesteps)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("multiplier", [1.0, 3.0])
def test_timesteps_come_as_often_as_asked(batch_size: int, multiplier: float) -> None:
    probabilities = range_probabilities(BASE, multiplier=multiplier, biased=range(600, 700))
    drawn = draw_many(BASE, probabilities, batch_size=batch_size, num=24_000 // batch_size)
    counts = np.bincount(drawn.ravel() - BASE.start, minlength=len(BASE))
    # Draws of one batch repel each other, which only brings counts nearer to what is expected.
    assert stats.chisquare(counts, probabilities * drawn.size).pvalue > 0.01


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_each_place_in_a_batch_comes_as_often_as_asked(batch_size: int) -> None:
    drawn = draw_many(REFINER, range_probabilities(REFINER), batch_size=batch_size, num=8_000)
    counts = np.bincount(drawn[:, 0] // 10, minlength=35)
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_a_batch_has_one_draw_in_each_equal_part(batch_size: int) -> None:
    timesteps = range(24)
    drawn = draw_many(timesteps, range_probabilities(timesteps), batch_size=batch_size, num=50)
    parts = np.sort(drawn * batch_size // 24, axis=1)
    np.testing.assert_array_equal(parts, np.tile(np.arange(batch_size), (50, 1)))


def test_biased_timesteps_come_multiplier_times_as_often() -> None:
    probabilities = range_probabilities(range(10, 20), multiplier=4.0, biased=range(18, 30))
    np.testing.assert_allclose(probabilities, [1 / 16] * 8 + [4 / 16] * 2)


def test_a_bias_outside_the_range_changes_nothing() -> None:
    for biased in (range(5), range(30, 40), range(0)):
        probabilities = range_probabilities(range(10, 20), multiplier=4.0, biased=biased)
        np.testing.assert_allclose(probabilities, 0.1)

"""Draws are named by what they are for, have the stated chance, and never move."""

import numpy as np
import pytest
import torch

from diptych.adapters.merge.draws import Draw, chance_of, keep_by_chance, keep_by_chances
from support.updates import FIRST, SECOND

CPU = torch.device("cpu")


def test_equal_names_give_equal_numbers() -> None:
    one, other = Draw(1, 0, FIRST), Draw(1, 0, FIRST)
    assert np.array_equal(one.first_bytes(9), other.first_bytes(9))
    assert np.array_equal(one.other_bytes(9), other.other_bytes(9))


@pytest.mark.parametrize("other", [Draw(2, 0, FIRST), Draw(1, 1, FIRST), Draw(1, 0, SECOND)])
def test_other_names_give_other_numbers(other: Draw) -> None:
    assert not np.array_equal(Draw(1, 0, FIRST).first_bytes(9), other.first_bytes(9))


def test_a_longer_draw_begins_with_the_shorter() -> None:
    draw, chance = Draw(1, 0, FIRST), chance_of(0.3)
    longer = keep_by_chance(draw, torch.Size([5000]), chance, CPU)
    assert torch.equal(longer[:3001], keep_by_chance(draw, torch.Size([3001]), chance, CPU))


def test_numbers_are_the_same_on_every_machine() -> None:
    draw = Draw(7, 1, FIRST)
    assert draw.first_bytes(6).tolist() == [176, 32, 40, 245, 223, 46]
    assert draw.other_bytes(3).tolist() == [10331338, 14636994, 8040499]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_values_are_kept_with_the_chance(density: float) -> None:
    kept = keep_by_chance(Draw(0, 0, FIRST), torch.Size([1000, 200]), chance_of(density), CPU)
    assert float(kept.double().mean()) == pytest.approx(density, abs=0.005)


def test_all_is_kept_for_certain() -> None:
    assert keep_by_chance(Draw(0, 0, FIRST), torch.Size([50]), chance_of(1.0), CPU).all()


def test_the_chance_is_never_none() -> None:
    assert chance_of(1e-30) == 2.0**-32


def test_each_value_is_kept_with_its_own_chance() -> None:
    chances = torch.tensor([0.1, 0.9, 1.0]).repeat_interleave(40_000)
    kept = keep_by_chances(Draw(0, 0, FIRST), chances).double().view(3, -1).mean(dim=1)
    assert kept.tolist() == pytest.approx([0.1, 0.9, 1.0], abs=0.01)


def test_equal_chances_keep_what_one_chance_keeps() -> None:
    draw, shape = Draw(3, 0, FIRST), torch.Size([5000])
    one = keep_by_chance(draw, shape, chance_of(0.3), CPU)
    each = keep_by_chances(draw, torch.full(shape, 0.3, dtype=torch.float64))
    assert torch.equal(one, each)


def test_numbers_spread_over_the_whole_range() -> None:
    draw = Draw(0, 0, FIRST)
    first, _ = np.histogram(draw.first_bytes(100_000), bins=16, range=(0, 256))
    other, _ = np.histogram(draw.other_bytes(100_000), bins=16, range=(0, 2**24))
    assert min(first.min(), other.min()) > 5900


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_lower_bytes_decide_where_the_first_does_not(share: float) -> None:
    kept = keep_by_chance(Draw(0, 0, FIRST), torch.Size([8_000_000]), share / 256, CPU)
    assert int(kept.sum()) == pytest.approx(8_000_000 * share / 256, rel=0.05)

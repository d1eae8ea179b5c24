"""A cut is as near as any matrix of its rank, however it was found."""

import pytest
import torch
from torch import Tensor

from diptych.adapters.merge.singular import (
    Cut,
    PickRank,
    cut_dense,
    cut_factors,
    pick_rank,
)
from diptych.adapters.merge.task_vectors import Factors
from support.made_adapters import noise


def factors(out: int, fan_in: int, rank: int, seed: int = 0) -> Factors:
    return Factors(up=noise(out, rank, seed=seed).double(), down=noise(rank, fan_in).double())


def product(made: Factors) -> Tensor:
    return made.up @ made.down


def distance(cut: Cut, matrix: Tensor) -> float:
    return float((product(cut.factors) - matrix).norm() / matrix.double().norm())


def least(matrix: Tensor, rank: int) -> float:
    """Return the relative error of the best matrix of ``rank`` (Eckart and Young)."""
    values = torch.linalg.svdvals(matrix.double())
    return float(values[rank:].norm() / values.norm())


def noisy(out: int, fan_in: int, rank: int, share: float) -> tuple[Tensor, Factors]:
    """Return a matrix of a few strong directions and much that is weak."""
    made = factors(out, fan_in, rank)
    strong = product(made)
    matrix = strong + share * strong.std() * noise(out, fan_in, seed=5)
    return matrix.float(), made


@pytest.mark.parametrize(("out", "fan_in"), [(20, 30), (30, 20), (6, 40), (40, 6)])
def test_cutting_factors_is_the_best_there_is(out: int, fan_in: int) -> None:
    made = factors(out, fan_in, 12)
    cut = cut_factors(made, pick_rank(rank=3))
    assert distance(cut, product(made)) == pytest.approx(least(product(made), 3), rel=1e-9)


def test_a_cut_tells_its_error() -> None:
    made = factors(20, 30, 12)
    cut = cut_factors(made, pick_rank(rank=3))
    assert cut.truncation == pytest.approx(distance(cut, product(made)), rel=1e-9)


def test_factors_of_a_smaller_rank_than_they_could_have_lose_nothing() -> None:
    made = factors(20, 30, 5)
    twice = Factors(up=torch.cat([made.up, made.up], dim=1), down=made.down.repeat(2, 1))
    cut = cut_factors(twice, pick_rank())
    assert (len(cut.factors.down), distance(cut, 2 * product(made)) < 1e-12) == (5, True)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999, 1.0])
def test_the_smallest_rank_that_keeps_the_energy_is_found(energy: float) -> None:
    made = factors(20, 30, 12)
    rank = len(cut_factors(made, pick_rank(energy_share=energy)).factors.down)
    worst = (1 - energy) ** 0.5 + 1e-6
    assert least(product(made), rank) <= worst
    assert least(product(made), rank - 1) > worst


@pytest.mark.parametrize(("out", "fan_in"), [(300, 400), (400, 300)])
def test_iterating_is_as_near_as_an_exact_decomposition(out: int, fan_in: int) -> None:
    matrix, made = noisy(out, fan_in, 24, 0.8)
    cut = cut_dense(matrix, pick_rank(rank=8), made)
    assert distance(cut, matrix) <= least(matrix, 8) * (1 + 1e-9)


@pytest.mark.parametrize("pick", [pick_rank(rank=40), pick_rank(energy_share=0.9)])
def test_where_iterating_would_take_long_the_result_is_exact(pick: PickRank) -> None:
    matrix, made = noisy(300, 310, 4, 3.0)
    cut = cut_dense(matrix, pick, made)
    rank = len(cut.factors.down)
    assert distance(cut, matrix) <= least(matrix, rank) * (1 + 1e-9)


def test_directions_that_the_start_does_not_know_are_found() -> None:
    matrix, made = noisy(300, 320, 3, 0.3)
    elsewhere = 5 * matrix.norm() * torch.outer(torch.eye(300)[7], torch.eye(320)[9])
    cut = cut_dense(matrix + elsewhere, pick_rank(rank=4), made)
    assert distance(cut, matrix + elsewhere) <= least(matrix + elsewhere, 4) * (1 + 1e-7)


def test_small_matrices_are_cut_exactly() -> None:
    matrix, made = noisy(20, 30, 6, 1.0)
    cut = cut_dense(matrix, pick_rank(rank=5), made)
    assert distance(cut, matrix) == pytest.approx(least(matrix, 5), rel=1e-9)


def test_nothing_is_cut_to_nothing() -> None:
    zeros = Factors(
        up=torch.zeros(8, 2, dtype=torch.float64), down=torch.zeros(2, 8, dtype=torch.float64)
    )
    cut = cut_dense(torch.zeros(8, 8), pick_rank(rank=2), zeros)
    assert torch.equal(product(cut.factors), torch.zeros(8, 8, dtype=torch.float64))
    assert cut_factors(zeros, pick_rank()).truncation == 0.0


def test_both_sides_have_the_same_share_of_the_scale() -> None:
    cut = cut_factors(factors(20, 30, 4), pick_rank())
    assert torch.allclose(cut.factors.up.norm(dim=0), cut.factors.down.norm(dim=1))


def test_a_rank_beyond_the_matrix_is_the_matrix() -> None:
    made = factors(6, 30, 3)
    assert len(cut_factors(made, pick_rank(rank=100)).factors.down) <= 6

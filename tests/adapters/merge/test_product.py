"""In product space an update's factors do not matter, only the update."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.adapters.adapter import LowRank, Target
from diptych.adapters.merge.product import Part, merge_target, report_of, result_dtype
from diptych.adapters.merge.report import LayerReport
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.merge.task_vectors import dense_update, factors_of
from diptych.errors import AdapterMismatch, InvalidRequest
from support.made_adapters import noise
from support.updates import FIRST, KERNEL, update, weight_of

DROPPING = ("ties", "dare_linear", "dare_ties", "magnitude_prune", "della", "della_linear")


def merged(
    low_ranks: Sequence[LowRank], target: Target = FIRST, **wish: Any
) -> tuple[Tensor, LayerReport]:
    """Return what the merge adds, [out, in] float64, and its report."""
    spec = MergeSpec(**wish)
    weights = spec.weights_of(len(low_ranks))
    parts = [
        Part(position=index, weight=weight, low_rank=low_rank)
        for index, (low_rank, weight) in enumerate(zip(low_ranks, weights, strict=True))
    ]
    made, report = merge_target(target, parts, spec, weight_of=weight_of, device=None)
    assert made.weight_shape == low_ranks[0].weight_shape
    return plain(made, target), report


def plain(low_rank: LowRank, target: Target = FIRST) -> Tensor:
    return dense_update(low_rank, factors_of(low_rank), weight_of(target))


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def flipped(low_rank: LowRank) -> LowRank:
    return replace(low_rank, down=-low_rank.down, up=-low_rank.up)


@pytest.mark.parametrize("target", [FIRST, KERNEL])
@pytest.mark.parametrize("method", ["linear", "cat", "svd"])
def test_unlike_ranks_add_up_exactly(method: str, target: Target) -> None:
    low_ranks = [update(target, 1, rank=2), update(target, 5, rank=5, alpha=9.0)]
    wish: dict[str, Any] = {"rank": 7} if method == "svd" else {}
    found, report = merged(low_ranks, target, method=method, weights=(0.7, -1.5), **wish)
    expected = 0.7 * plain(low_ranks[0]) - 1.5 * plain(low_ranks[1])
    assert off(found, expected) < 1e-6
    assert report.error < 1e-6


@pytest.mark.parametrize("method", ["linear", "svd", "slerp", *DROPPING])
def test_signs_of_the_factors_change_not_a_bit(method: str) -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    wish: dict[str, Any] = {"density": 0.4} if method in DROPPING else {}
    found, _ = merged(low_ranks, method=method, **wish)
    again, _ = merged([flipped(low_ranks[0]), low_ranks[1]], method=method, **wish)
    assert torch.equal(found, again)


@pytest.mark.parametrize("method", ["linear", "svd", "cat", *DROPPING])
@pytest.mark.parametrize("target", [FIRST, KERNEL])
def test_one_at_density_one_is_itself(method: str, target: Target) -> None:
    low_rank = update(target, 3)
    wish: dict[str, Any] = {"density": 1.0} if method in DROPPING else {}
    found, report = merged([low_rank], target, method=method, **wish)
    assert off(found, plain(low_rank)) < 1e-6
    assert report.rank == low_rank.rank


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("election", ["total", "frequency"])
def test_ties_of_equals_is_the_same(copies: int, election: str) -> None:
    low_rank = update(FIRST, 3)
    found, _ = merged([low_rank] * copies, method="ties", density=1.0, election=election)
    assert off(found, plain(low_rank)) < 1e-6


def test_ties_is_the_operator_on_the_updates_cut_to_rank() -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    found, _ = merged(
        low_ranks, method="ties", density=0.5, weighted_vote=False, rank=16, weights=(1.0, 0.5)
    )
    dense = torch.stack([plain(low_rank) for low_rank in low_ranks])
    keep = dense[0].numel() // 2
    floor = [values.abs().flatten().topk(keep).values[-1] for values in dense]
    trimmed = torch.stack(
        [torch.where(v.abs() >= t, v, 0.0) for v, t in zip(dense, floor, strict=True)]
    )
    agrees = trimmed.sign() == torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    weighted = trimmed * torch.tensor([1.0, 0.5]).view(2, 1, 1)
    expected = (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    assert off(found, expected) < 1e-6


def test_the_ending_svd_changes_nothing_where_every_cut_is_one() -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    one, _ = merged(low_ranks, method="ties", density=0.5)
    other, _ = merged(low_ranks, method="ties_svd", density=0.5)
    assert torch.equal(one, other)


def test_the_rank_is_by_default_the_largest_of_the_inputs() -> None:
    low_ranks = [update(FIRST, 1, rank=2), update(FIRST, 5, rank=5)]
    assert merged(low_ranks, method="ties", density=0.5)[1].rank == 5


@pytest.mark.parametrize(("energy", "within"), [(0.5, 0.71), (0.9, 0.32), (0.999, 0.032)])
def test_the_rank_keeps_a_share_of_the_energy(energy: float, within: float) -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    assert merged(low_ranks, method="ties", density=0.5, energy=energy)[1].truncation < within


def test_seeds_name_different_draws() -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    one, other = (merged(low_ranks, method="dare_ties", density=0.5, seed=s)[0] for s in (1, 2))
    assert not torch.allclose(one, other)


def test_the_result_is_scaled() -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    one, _ = merged(low_ranks, method="ties", density=0.5)
    half, _ = merged(low_ranks, method="ties", density=0.5, scale=0.5)
    assert off(2 * half, one) < 1e-6


@pytest.mark.parametrize(("position", "end"), [(0.0, 0), (1.0, 1)])
def test_an_arc_begins_and_ends_at_its_adapters(position: float, end: int) -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5, rank=2)]
    found, _ = merged(low_ranks, method="slerp", position=position)
    assert off(found, plain(low_ranks[end])) < 1e-6


def test_an_arc_lies_outside_the_line() -> None:
    low_ranks = [update(FIRST, 1), update(FIRST, 5)]
    arc, _ = merged(low_ranks, method="slerp")
    line, _ = merged(low_ranks, method="linear", weights=(0.5, 0.5))
    assert float(arc.norm()) > 1.2 * float(line.norm())


def test_a_target_of_one_end_of_an_arc_fades_in() -> None:
    spec = MergeSpec(method="slerp", position=0.25)
    part = Part(position=1, weight=1.0, low_rank=update(FIRST, 1))
    made, report = merge_target(FIRST, [part], spec, weight_of=None, device=None)
    assert off(plain(made), 0.25 * plain(part.low_rank)) < 1e-6
    assert report.error < 1e-6


@pytest.mark.parametrize("side", ["out", "in"])
def test_doras_add_what_they_add_to_the_weights(side: str) -> None:
    low_ranks = [update(FIRST, 1, side=side), update(FIRST, 5)]
    found, report = merged(low_ranks, method="linear", rank=16, weights=(0.5, 2.0))
    expected = 0.5 * plain(low_ranks[0]) + 2.0 * plain(low_ranks[1])
    assert off(found, expected) < 1e-5
    assert report.error < 1e-5


def test_a_weight_of_another_shape_is_refused_with_both() -> None:
    part = Part(position=2, weight=1.0, low_rank=update(FIRST, 1, side="out"))
    spec = MergeSpec(method="svd")
    with pytest.raises(AdapterMismatch, match=r"adapters\[2\].*\[24, 16\].*\[3, 3\]"):
        merge_target(FIRST, [part], spec, weight_of=lambda _: torch.zeros(3, 3), device=None)


def test_a_cut_dora_tells_what_was_lost() -> None:
    low_ranks = [update(FIRST, 1, side="out"), update(FIRST, 5)]
    found, report = merged(low_ranks, method="ties", density=0.8)
    expected = plain(low_ranks[0]) + plain(low_ranks[1])
    assert report.error == pytest.approx(off(found, expected), rel=1e-5)


def test_the_arc_between_doras_is_between_their_updates() -> None:
    low_ranks = [update(FIRST, 1, side="out"), update(FIRST, 5, side="out")]
    found, _ = merged(low_ranks, method="slerp", position=1.0, rank=16)
    assert off(found, plain(low_ranks[1])) < 1e-5


@pytest.mark.parametrize(
    ("wish", "field"),
    [({"method": "cat"}, "rank"), ({"method": "linear"}, "rank")],
)
def test_a_rank_over_the_limit_is_refused_by_name(wish: dict[str, Any], field: str) -> None:
    wide = LowRank(down=noise(100, 300), up=noise(300, 100, seed=3), alpha=1.0)
    other = LowRank(down=noise(100, 300, seed=1), up=noise(300, 100, seed=4), alpha=1.0)
    with pytest.raises(InvalidRequest, match=r"unet\.blocks\.0\.to_q .* limit of 128") as caught:
        merged([wide, other], **wish)
    assert caught.value.violations[0].field == field


def test_energy_that_takes_too_large_a_rank_is_refused_by_name() -> None:
    wide = LowRank(down=noise(100, 300), up=noise(300, 100, seed=3), alpha=1.0)
    with pytest.raises(InvalidRequest, match=r"^energy: 1 of \S+ takes rank \d+, over"):
        merged([wide, wide], method="dare_linear", density=0.5, energy=1.0)


def test_a_result_has_the_precision_of_its_widest_input() -> None:
    half = update(FIRST, 1)
    half = replace(half, down=half.down.half(), up=half.up.half())
    assert result_dtype([half, update(FIRST, 5)]) == torch.float32
    assert result_dtype([half]) == torch.float16


def test_rounding_to_half_precision_is_part_of_the_error() -> None:
    half = update(FIRST, 1)
    half = replace(half, down=half.down.half(), up=half.up.half())
    assert 1e-5 < merged([half], method="linear")[1].error < 1e-2


def test_a_report_compares_with_factors_as_with_what_they_multiply_to() -> None:
    made, other = update(FIRST, 1), factors_of(update(FIRST, 5))
    one = report_of(FIRST, made, other, 0.0)
    dense = report_of(FIRST, made, other.up @ other.down, 0.0)
    assert one.error == pytest.approx(dense.error, rel=1e-9)

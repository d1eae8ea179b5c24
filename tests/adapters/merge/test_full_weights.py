"""A merged weight is the base and what its method makes of the experts' changes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.adapters.merge.full_weights import FULL_METHODS, check_full_spec, merge_weight
from diptych.adapters.merge.spec import MergeSpec
from diptych.errors import InvalidRequest
from support.made_adapters import noise

BASE = noise(12, 10, seed=1)
CHANGES = noise(12, 10, seed=2) * 0.1, noise(12, 10, seed=3) * 0.1
TUNED = tuple(BASE + change for change in CHANGES)


def spec_of(method: str, *weights: float, **options: Any) -> MergeSpec:
    needs_density = method not in {"linear", "slerp"}
    given = ({"density": 0.5} if needs_density else {}) | options
    return MergeSpec(method=method, weights=weights, **given)


def merged(spec: MergeSpec, *tuned: Tensor, base: Tensor = BASE) -> Tensor:
    return merge_weight("down.weight", base, tuned, check_full_spec(spec, len(tuned)))[0]


def test_linear_is_the_weighted_sum_of_changes() -> None:
    expected = BASE + 0.7 * CHANGES[0] - 0.2 * CHANGES[1]
    assert torch.allclose(merged(spec_of("linear", 0.7, -0.2), *TUNED), expected, atol=1e-6)


@pytest.mark.parametrize("method", [name for name in FULL_METHODS if name != "slerp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_expert_at_density_one_is_itself(method: str, dtype: torch.dtype) -> None:
    base, tuned = BASE.to(dtype), TUNED[0].to(dtype)
    options = {} if method == "linear" else {"density": 1.0}
    assert torch.equal(merged(spec_of(method, 1.0, **options), tuned, base=base), tuned)


def test_ties_of_equals_at_density_one_is_that_expert() -> None:
    spec = spec_of("ties", 1.0, 1.0, density=1.0)
    assert torch.allclose(merged(spec, TUNED[0], TUNED[0]), TUNED[0], atol=1e-6)


def test_ties_keeps_the_larger_half() -> None:
    change = merged(spec_of("ties", 1.0), TUNED[0]) - BASE
    assert int((change != 0).sum()) == 60


def test_dare_is_unbiased() -> None:
    draws = [merged(spec_of("dare_linear", 1.0, seed=s), TUNED[0]) for s in range(300)]
    mean = torch.stack(draws).mean(dim=0) - BASE
    assert float((mean - CHANGES[0]).norm() / CHANGES[0].norm()) < 0.1


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_equal_seeds_give_equal_weights_and_others_do_not(method: str) -> None:
    one, same, other = (merged(spec_of(method, 1.0, 1.0, seed=seed), *TUNED) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_slerp_of_equal_lengths_keeps_the_length() -> None:
    turned = CHANGES[1] * (CHANGES[0].norm() / CHANGES[1].norm())
    half = merged(spec_of("slerp", 1.0, 1.0), TUNED[0], BASE + turned) - BASE
    assert torch.allclose(half.norm(), CHANGES[0].norm(), rtol=1e-5)


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_slerp_ends_at_its_experts(position: float) -> None:
    end = merged(spec_of("slerp", 1.0, 1.0, position=position), *TUNED)
    assert torch.allclose(end, TUNED[int(position)], atol=1e-6)


def test_scale_multiplies_the_merged_change() -> None:
    once = merged(spec_of("ties", 1.0, 1.0), *TUNED) - BASE
    twice = merged(spec_of("ties", 1.0, 1.0, scale=2.0), *TUNED) - BASE
    assert torch.allclose(twice, 2 * once, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_report_is_the_distance_from_the_weighted_sum(method: str) -> None:
    result, report = merge_weight("x", BASE, TUNED, spec_of(method, 1.0, 1.0))
    share = 0.5 if method == "slerp" else 1.0
    reference = share * (CHANGES[0] + CHANGES[1])
    expected = float((result - BASE - reference).norm() / reference.norm())
    assert report.error == pytest.approx(expected, abs=1e-5)


def test_vectors_and_kernels_are_merged_too() -> None:
    for shape in ((7,), (4, 3, 3, 3), ()):
        base, tuned = noise(*shape, seed=4), [noise(*shape, seed=s) for s in (5, 6)]
        assert merged(spec_of("della", 1.0, 1.0), *tuned, base=base).shape == base.shape


def test_a_result_beyond_half_precision_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="x leaves the range of"):
        merge_weight("x", BASE.half(), [TUNED[0]], spec_of("linear", 1e7))


@pytest.mark.parametrize(
    ("spec", "count", "field"),
    [
        (MergeSpec(method="cat"), 2, "method"),
        (MergeSpec(method="ties"), 2, "density"),
        (MergeSpec(method="ties", density=0.0), 2, "density"),
        (MergeSpec(method="linear", rank=4), 2, "rank"),
        (MergeSpec(method="linear", energy=0.9), 2, "energy"),
        (MergeSpec(method="linear", space="factors"), 2, "space"),
        (MergeSpec(method="slerp"), 3, "experts"),
        (MergeSpec(method="linear"), 0, "experts"),
        (MergeSpec(method="linear", weights=(float("nan"),)), 1, "weights[0]"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: MergeSpec, count: int, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_full_spec(spec, count)
    assert field in [violation.field for violation in refused.value.violations]

"""A wish to merge is refused whole: every value that is out of range, every option without use."""

from typing import Any

import pytest

from diptych.adapters.merge.spec import FACTOR_METHODS, PRODUCT_METHODS, MergeSpec, check_spec
from diptych.errors import InvalidRequest


def fields(num_adapters: int = 2, **wish: Any) -> list[str]:
    """Return the fields that are refused."""
    try:
        check_spec(MergeSpec(**wish), num_adapters, max_rank=128)
    except InvalidRequest as invalid:
        return [violation.field for violation in invalid.violations]
    return []


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan"), float("inf")])
def test_density_outside_its_range_is_refused(density: float) -> None:
    assert fields(method="ties", density=density) == ["density"]


@pytest.mark.parametrize("density", [1e-9, 0.5, 1.0])
def test_density_inside_its_range_is_taken(density: float) -> None:
    assert fields(method="ties", density=density) == []


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(weight: float) -> None:
    assert fields(method="linear", weights=(1.0, weight)) == ["weights[1]"]


@pytest.mark.parametrize(
    ("wish", "refused"),
    [
        ({"method": "linear", "weights": (1.0,)}, "weights"),
        ({"method": "svd", "rank": 0}, "rank"),
        ({"method": "svd", "rank": 129}, "rank"),
        ({"method": "svd", "energy": 0.0}, "energy"),
        ({"method": "svd", "energy": 0.9, "rank": 4}, "energy"),
        ({"method": "average"}, "method"),
        ({"method": "slerp", "space": "factors"}, "method"),
        ({"method": "della", "space": "factors", "density": 0.5}, "method"),
        ({"method": "linear", "space": "weights"}, "space"),
        ({"method": "linear", "seed": -1}, "seed"),
        ({"method": "linear", "seed": 2**63}, "seed"),
        ({"method": "linear", "scale": float("nan")}, "scale"),
        ({"method": "slerp", "position": 1.1}, "position"),
        ({"method": "ties"}, "density"),
        ({"method": "ties", "density": 0.5, "election": "weight"}, "election"),
        ({"method": "della", "density": 0.5, "epsilon": 1.2}, "epsilon"),
        ({"method": "della", "density": 0.9, "epsilon": 0.4}, "epsilon"),
    ],
)
def test_a_value_out_of_range_is_refused(wish: dict[str, Any], refused: str) -> None:
    assert fields(**wish) == [refused]


@pytest.mark.parametrize(
    ("wish", "refused"),
    [
        ({"method": "linear", "density": 0.5}, "density"),
        ({"method": "cat", "rank": 4}, "rank"),
        ({"method": "cat", "energy": 0.5}, "energy"),
        ({"method": "svd", "election": "total"}, "election"),
        ({"method": "dare_linear", "density": 0.5, "weighted_vote": True}, "weighted_vote"),
        ({"method": "ties", "density": 0.5, "epsilon": 0.1}, "epsilon"),
        ({"method": "linear", "position": 0.5}, "position"),
        ({"method": "ties", "space": "factors", "density": 0.5, "rank": 4}, "rank"),
        (
            {"method": "ties", "space": "factors", "density": 0.5, "weighted_vote": True},
            "weighted_vote",
        ),
        ({"method": "svd", "space": "factors", "energy": 0.9}, "energy"),
        ({"method": "linear", "space": "factors", "scale": 0.5}, "scale"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(wish: dict[str, Any], refused: str) -> None:
    assert fields(**wish) == [refused]


@pytest.mark.parametrize(("method", "number"), [("linear", 0), ("linear", 33), ("slerp", 3)])
def test_a_number_of_adapters_that_cannot_be_merged_is_refused(method: str, number: int) -> None:
    assert fields(number, method=method) == ["adapters"]


def test_every_violation_is_named_at_once() -> None:
    found = fields(method="magic", weights=(1.0, 2.0, float("nan")), rank=0, density=2.0, seed=-5)
    assert found == ["weights", "weights[2]", "density", "rank", "seed", "method"]


@pytest.mark.parametrize("method", [*PRODUCT_METHODS, *FACTOR_METHODS])
def test_every_method_is_known_to_space_product(method: str) -> None:
    density = None if method in {"linear", "cat", "svd", "slerp"} else 0.5
    assert fields(method=method, density=density) == []


def test_weights_are_ones_unless_given() -> None:
    assert MergeSpec(method="linear").weights_of(3) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("space", "vote"), [("product", True), ("factors", False)])
def test_weights_vote_by_default_in_space_product_only(space: Any, vote: bool) -> None:
    assert MergeSpec(method="ties", density=0.5, space=space).vote_is_weighted is vote


@pytest.mark.parametrize(("density", "spread"), [(0.5, 0.1), (0.04, 0.04), (0.99, 0.02), (1, 0)])
def test_the_default_spread_leaves_chances_between_zero_and_one(
    density: float, spread: float
) -> None:
    assert MergeSpec(method="della", density=density).spread == pytest.approx(spread)

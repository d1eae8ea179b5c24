"""Adapters of a request are checked as one: everything wrong with them is told at once."""

import math

import pytest

from diptych.inference.adapter_wishes import adapter_wishes
from diptych.inference.limits import Limits
from diptych.inference.orders import AdapterWish
from diptych.rpc.violations import Violations
from diptych.v1.types_pb2 import AdapterUse

DIGEST = f"sha256:{'a' * 64}"


def wished(*uses: AdapterUse) -> tuple[AdapterWish, ...]:
    found = Violations()
    wishes = adapter_wishes(uses, Limits(), found)
    found.raise_if_any()
    return wishes


def refused(*uses: AdapterUse) -> list[str]:
    found = Violations()
    adapter_wishes(uses, Limits(), found)
    return [violation.field for violation in found.found]


def test_absent_scale_is_one() -> None:
    assert wished(AdapterUse(adapter="huggy"))[0].scale == 1.0


def test_scale_of_zero_is_not_absent() -> None:
    assert wished(AdapterUse(adapter="huggy", scale=0.0))[0].scale == 0.0


def test_parts_come_in_order_of_their_names() -> None:
    use = AdapterUse(adapter="huggy", parts={"unet.up.block_1.0": 0.5, "refiner": 0.0})
    assert wished(use)[0].parts == (("refiner", 0.0), ("unet.up.block_1.0", 0.5))


@pytest.mark.parametrize(
    "part",
    "base refiner text_encoder text_encoder_2 unet unet.down unet.mid unet.up.block_0".split(),
)
def test_parts_of_the_model_are_known(part: str) -> None:
    assert refused(AdapterUse(adapter="huggy", parts={part: 1.0})) == []


@pytest.mark.parametrize("part", ["", "vae", "unet.side", "unet.mid.block_0", "unet.up.block_x"])
def test_other_parts_are_refused(part: str) -> None:
    assert refused(AdapterUse(adapter="huggy", parts={part: 1.0})) == ["adapters[0].parts"]


@pytest.mark.parametrize("scale", [math.nan, math.inf, 10.5, -11.0])
def test_scale_outside_its_range_is_refused(scale: float) -> None:
    assert refused(AdapterUse(adapter="huggy", scale=scale)) == ["adapters[0].scale"]


@pytest.mark.parametrize("name", ["", "../up", "a\0", "x" * 10_000, "sha256:12", "A"])
def test_reference_that_is_none_is_refused(name: str) -> None:
    assert refused(AdapterUse(adapter=name)) == ["adapters[0].adapter"]


def test_latest_and_no_tag_are_the_same_adapter() -> None:
    uses = (AdapterUse(adapter="huggy"), AdapterUse(adapter="huggy:latest"))
    assert refused(*uses) == ["adapters[1].adapter"]


def test_too_many_adapters_are_refused() -> None:
    assert refused(*(AdapterUse(adapter=f"a{index}") for index in range(9))) == ["adapters"]


def test_every_violation_is_told() -> None:
    bad = AdapterUse(adapter="?", scale=math.nan, parts={"x": 1.0, "base": math.nan})
    assert refused(AdapterUse(adapter=DIGEST), bad) == [
        "adapters[1].adapter",
        "adapters[1].scale",
        "adapters[1].parts[base]",
        "adapters[1].parts",
    ]

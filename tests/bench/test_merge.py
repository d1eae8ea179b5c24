"""Both sides merge the same updates, and are judged by the least error there is."""

from dataclasses import replace

import pytest

from diptych.bench.merge import (
    METHODS,
    MergeConfig,
    MergeReport,
    MethodReport,
    Side,
    attention_shapes,
    measure_merging,
)
from diptych.errors import InvalidRequest

SIDE = Side(seconds=10.0, peak_bytes=1, error=0.5, least_error=0.5, sum_error=0.6)


@pytest.fixture(scope="module")
def found() -> MergeReport:
    config = MergeConfig(num_adapters=3, rank=4, repeats=1)
    return measure_merging({(24, 16): 5, (12, 40): 2}, config, architecture="tiny")


def methods(theirs: Side, ours: Side) -> MergeReport:
    one = MethodReport(method="ties", theirs=theirs, ours=ours)
    return MergeReport(architecture="", num_layers=1, num_adapters=2, rank=1, methods=(one,))


def test_every_method_is_measured_over_all_layers(found: MergeReport) -> None:
    assert (tuple(one.method for one in found.methods), found.num_layers) == (METHODS, 7)


@pytest.mark.parametrize("index", range(len(METHODS)))
def test_both_come_as_near_as_their_rank_allows(found: MergeReport, index: int) -> None:
    one = found.methods[index]
    assert (one.theirs.excess, one.ours.excess) == pytest.approx((0, 0), abs=1e-6)
    assert one.is_as_near


def test_without_chance_both_have_the_same_error(found: MergeReport) -> None:
    assert found.methods[0].ours.error == pytest.approx(found.methods[0].theirs.error, rel=1e-6)


def test_time_and_memory_are_told(found: MergeReport) -> None:
    assert all(one.ours.seconds > 0 and one.speedup > 0 for one in found.methods)


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        (replace(SIDE, seconds=2.0), True),
        (replace(SIDE, seconds=2.1), False),
        (replace(SIDE, seconds=1.0, error=0.5001), False),
        (replace(SIDE, seconds=1.0, error=0.7, least_error=0.7), True),
    ],
)
def test_it_holds_if_it_is_five_times_as_quick_and_as_near(ours: Side, holds: bool) -> None:
    assert methods(SIDE, ours).holds is holds


def test_sdxl_has_560_attention_projections_of_four_shapes() -> None:
    shapes = attention_shapes("sdxl")
    assert (sum(shapes.values()), shapes[1280, 1280], shapes[1280, 2048]) == (560, 360, 120)


def test_the_nano_networks_layers_are_known_too() -> None:
    assert max(max(shape) for shape in attention_shapes("nano")) <= 320


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'sd3' is not one of sdxl, nano"):
        attention_shapes("sd3")

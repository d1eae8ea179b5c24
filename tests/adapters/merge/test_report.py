"""A report's totals follow from its layers."""

import math

import pytest

from diptych.adapters.merge.report import LayerReport, MergeReport, relative_error


def layer(*, reference: float, residual: float, rank: int = 4) -> LayerReport:
    return LayerReport(
        component="unet",
        module="conv_in",
        rank=rank,
        reference_energy=reference,
        residual_energy=residual,
        truncation=0.0,
    )


def test_a_layers_error_is_relative_to_its_reference() -> None:
    assert layer(reference=16.0, residual=4.0).error == 0.5


def test_the_total_error_is_over_all_layers_together() -> None:
    layers = (layer(reference=75.0, residual=0.0), layer(reference=25.0, residual=25.0))
    assert MergeReport(layers=layers).error == 0.5


def test_the_largest_rank_is_told() -> None:
    layers = (layer(reference=1, residual=0), layer(reference=1, residual=0, rank=9))
    assert MergeReport(layers=layers).max_rank == 9


def test_an_adapter_of_tokens_alone_has_neither_rank_nor_error() -> None:
    assert (MergeReport(layers=()).max_rank, MergeReport(layers=()).error) == (0, 0.0)


@pytest.mark.parametrize(
    ("residual", "reference", "error"), [(0, 0, 0), (1, 0, math.inf), (-1e-20, 1, 0), (1, 4, 0.5)]
)
def test_nothing_of_nothing_is_no_error(residual: float, reference: float, error: float) -> None:
    assert relative_error(residual, reference) == error

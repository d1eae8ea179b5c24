"""Guidance equals diffusers' formulas, and a row without it passes through untouched."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diptych.diffusion.guidance import combine

ROWS = (5, 4, 6, 6)


def predictions(seed: int) -> tuple[Tensor, Tensor]:
    cond, uncond = torch.randn((2, *ROWS), generator=torch.Generator().manual_seed(seed))
    return cond, uncond


def by_diffusers(cond: Tensor, uncond: Tensor, scale: float, rescale: float) -> Tensor:
    """Return one row as the SDXL pipeline computes it (``rescale_noise_cfg``)."""
    guided = uncond + scale * (cond - uncond)
    if rescale > 0.0:
        rescaled = guided * (cond.std() / guided.std())
        guided = rescale * rescaled + (1 - rescale) * guided
    return guided


@given(
    seed=st.integers(0, 1000), scale=st.floats(1.0, 20.0), rescale=st.sampled_from([0.0, 0.7, 1.0])
)
def test_equals_diffusers_row_by_row(seed: int, scale: float, rescale: float) -> None:
    cond, uncond = predictions(seed)
    scales = torch.tensor([1.5, 9.2, scale, 3.0, 5.0])
    rescales = torch.tensor([0.0, 0.7, rescale, 1.0, 0.25])
    ours = combine(cond, uncond, scales, rescales, torch.ones(5, dtype=torch.bool))
    pairs = zip(scales.tolist(), rescales.tolist(), strict=True)
    theirs = [by_diffusers(cond[b], uncond[b], *pair) for b, pair in enumerate(pairs)]
    assert torch.allclose(ours, torch.stack(theirs), atol=2e-5, rtol=1e-5)


def test_inactive_rows_are_the_conditional_prediction_exactly() -> None:
    cond, uncond = predictions(1)
    uncond[2] = float("nan")
    active = torch.tensor([True, True, False, True, True])
    ours = combine(cond, uncond, torch.full((5,), 9.2), torch.full((5,), 0.7), active)
    assert torch.equal(ours[2], cond[2])


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    cond, uncond = predictions(2)
    scale, rescale, active = (
        torch.arange(1.0, 6.0),
        torch.full((5,), 0.5),
        torch.ones(5, dtype=torch.bool),
    )
    together = combine(cond, uncond, scale, rescale, active)
    alone = combine(cond[3:4], uncond[3:4], scale[3:4], rescale[3:4], active[3:4])
    assert torch.allclose(together[3:4], alone, atol=1e-6)


def test_full_rescale_gives_back_the_standard_deviation() -> None:
    cond, uncond = predictions(3)
    ones = torch.ones(5)
    guided = combine(cond, uncond, 9.2 * ones, ones, torch.ones(5, dtype=torch.bool))
    assert torch.allclose(guided.std((1, 2, 3)), cond.std((1, 2, 3)), rtol=1e-5)


def test_scale_one_changes_nothing() -> None:
    cond, uncond = predictions(4)
    ones = torch.ones(5)
    guided = combine(cond, uncond, ones, 0 * ones, torch.ones(5, dtype=torch.bool))
    assert torch.allclose(guided, cond, atol=1e-6)


def test_a_constant_prediction_is_not_divided_by_zero() -> None:
    same = torch.full(ROWS, 0.5)
    ones = torch.ones(5)
    guided = combine(same, same, 3 * ones, ones, torch.ones(5, dtype=torch.bool))
    assert torch.equal(guided, same)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_combined_in_single(dtype: torch.dtype) -> None:
    cond, uncond = predictions(5)
    ones = torch.ones(5)
    guided = combine(cond.to(dtype), uncond.to(dtype), ones, ones, torch.ones(5, dtype=torch.bool))
    assert guided.dtype == torch.float32

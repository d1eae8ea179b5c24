"""One step of any solver over a batch in which every row is at its own point of its own plan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.diffusion.plan import Plan

__all__ = ["StackedEvaluations", "advance", "estimate_denoised", "stack_evaluations"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StackedEvaluations:
    """One evaluation per row, float32 on the CPU."""

    timestep: Tensor
    """[B]"""
    c_in: Tensor
    """[B]"""
    matrix: Tensor
    """[B, 4, 6]"""
    denoised: Tensor
    """[B, 6]"""


def stack_evaluations(plans: Sequence[Plan], cursors: Sequence[int]) -> StackedEvaluations:
    """Return evaluation ``cursors[b]`` of ``plans[b]`` for every row b."""
    at = list(zip(plans, cursors, strict=True))
    return StackedEvaluations(
        timestep=_single(np.array([plan.timestep[i] for plan, i in at])),
        c_in=_single(np.array([plan.c_in[i] for plan, i in at])),
        matrix=_single(np.stack([plan.matrix[i] for plan, i in at])),
        denoised=_single(np.stack([plan.denoised[i] for plan, i in at])),
    )


def advance(state: Tensor, model_output: Tensor, noise: Tensor | None, matrix: Tensor) -> Tensor:
    """Return every row's state after its own evaluation.

    Sums of elementwise products, not a matrix product: a row's result is the same to the bit in
    any batch, and no device setting can lower its precision.

    Args:
        state: (x, x_last, h1, h2), [B, 4, C, H, W], float32; unused memory is zero, never NaN.
        model_output: Guided prediction, [B, C, H, W], float32.
        noise: Fresh unit noise, [B, C, H, W], float32, anything finite in rows that draw none;
            None where no row draws.
        matrix: Coefficients of the inputs in the new state, [B, 4, 6], float32.

    Returns:
        A new state, [B, 4, C, H, W].
    """
    coefficients = matrix[:, :, :, None, None, None]
    result = coefficients[:, :, 0] * state[:, None, 0]
    for j in range(1, 4):
        result.addcmul_(coefficients[:, :, j], state[:, None, j])
    result.addcmul_(coefficients[:, :, 4], model_output[:, None])
    if noise is not None:
        result.addcmul_(coefficients[:, :, 5], noise[:, None])
    return result


def estimate_denoised(state: Tensor, model_output: Tensor, denoised: Tensor) -> Tensor:
    """Return every row's estimate of x0 from the state before its evaluation.

    Args:
        state: As for ``advance``.
        model_output: As for ``advance``.
        denoised: Coefficients, [B, 6], float32.

    Returns:
        Estimates, [B, C, H, W], float32.
    """
    return advance(state, model_output, None, denoised[:, None])[:, 0]


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))

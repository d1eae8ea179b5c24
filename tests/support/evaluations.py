"""Evaluations of several plans side by side, as the arithmetic of a step takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.diffusion import Plan

__all__ = ["StackedEvaluations", "stack_evaluations"]


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


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))

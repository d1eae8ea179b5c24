"""Classifier-free guidance, row by row."""

import torch
from torch import Tensor

__all__ = ["combine"]


def combine(cond: Tensor, uncond: Tensor, scale: Tensor, rescale: Tensor, active: Tensor) -> Tensor:
    """Return every row's guided prediction; rows that are not ``active`` are ``cond`` exactly.

    Ho and Salimans 2022 in the form ``uncond + scale * (cond - uncond)``; then, where ``rescale``
    is above 0, Lin et al. 2023, section 3.4: the standard deviation of ``cond`` is given back, and
    the result mixed with the unrescaled one.

    Args:
        cond: Prediction with the prompt, [B, C, H, W].
        uncond: Prediction with the negative prompt, [B, C, H, W]; anything where not active.
        scale: Guidance scale, [B], float32; 1 changes nothing.
        rescale: Share of the rescaled prediction in [0, 1], [B], float32.
        active: Which rows are guided now, [B], bool.

    Returns:
        Predictions, [B, C, H, W], float32.
    """
    cond, uncond = cond.float(), uncond.float()
    scale, rescale, active = (_per_row(v, cond) for v in (scale, rescale, active))
    guided = uncond + scale * (cond - uncond)
    dims = list(range(1, cond.ndim))
    std_cond, std_guided = cond.std(dims, keepdim=True), guided.std(dims, keepdim=True)
    ratio = torch.where(std_guided > 0.0, std_cond / std_guided, torch.ones_like(std_guided))
    rescaled = rescale * (guided * ratio) + (1.0 - rescale) * guided
    guided = torch.where(rescale > 0.0, rescaled, guided)
    return torch.where(active, guided, cond)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).view(-1, *[1] * (like.ndim - 1))

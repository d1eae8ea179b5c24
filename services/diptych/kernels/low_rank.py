"""Adds each row's own low-rank update to a layer's output, from lines gathered by number.

A bank keeps factors as *rank lines*: line n of a layer is one row of ``lora_A`` beside one column
of ``lora_B``. A batch says by an index which lines each of its rows uses, so unlike adapters share
one shrink and one expand, and swapping them changes neither a shape nor an address. Punica's SGMV
(Chen et al. 2023) does the same for tokens of language models.

What is here runs anywhere and is what the Triton kernel is tested against.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "AddLowRank",
    "Factors",
    "RowTensors",
    "Window",
    "add_low_rank",
    "add_product",
    "scale_output",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution slides over a picture: (vertical, horizontal) each, zeros around it."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def is_point(self) -> bool:
        """Return whether it maps every pixel by itself."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


class Factors(NamedTuple):
    """One layer's part of a bank of L lines; line 0 and those not in use are zeros."""

    down: Tensor
    """[L, in * kh * kw], whose lines may lie apart."""
    up: Tensor
    """[L, out], likewise. A line that holds gains has them here, and those of inputs in down."""
    used: Tensor
    """[L] int32: 1 where the line holds factors of this layer."""


class RowTensors(NamedTuple):
    """Which lines each row of a batch uses; shapes depend on the batch and the rank bucket only."""

    lines: Tensor
    """[B, R] int32; 0 stands for nothing."""
    scales: Tensor
    """[B, R] float32: what each line's ``up`` is multiplied by."""
    out_gains: Tensor | None = None
    """[B] int32: the line whose ``up`` is added to 1 and multiplies the outputs without bias."""
    in_gains: Tensor | None = None
    """[B] int32: the line whose ``down`` is added to 1 and multiplies the inputs."""


class AddLowRank(Protocol):
    """The operation: ``add_low_rank`` here, or a kernel that does the same."""

    def __call__(
        self,
        y: Tensor,
        x: Tensor,
        *,
        factors: Factors,
        rows: RowTensors,
        bias: Tensor | None,
        window: Window | None,
    ) -> Tensor:
        """Return ``y`` with every row's gain and update; ``y`` itself may be overwritten."""


def add_low_rank(
    y: Tensor,
    x: Tensor,
    *,
    factors: Factors,
    rows: RowTensors,
    bias: Tensor | None,
    window: Window | None,
) -> Tensor:
    """Return y + gain * (y - bias) + up @ scales @ down @ x row by row; may overwrite ``y``.

    Args:
        y: What the layer made of ``x``: [B, ..., out], or [B, out, H, W] of a convolution.
        x: The layer's input, [B, ..., in] or [B, in, h, w].
        factors: The layer's lines.
        rows: The lines each row uses.
        bias: The layer's bias [out], which ``y`` contains.
        window: How a convolution slides; None for a linear map.
    """
    if rows.out_gains is not None:
        y = scale_output(y, factors.up[rows.out_gains], bias=bias, window=window)
    down, up = factors.down[rows.lines], factors.up[rows.lines]
    up = up * rows.scales[:, :, None].to(up.dtype)
    return add_product(y, x, down=down, up=up, window=window)


def add_product(y: Tensor, x: Tensor, *, down: Tensor, up: Tensor, window: Window | None) -> Tensor:
    """Return ``y`` plus up @ down @ x row by row; overwrites ``y`` where it can.

    Args:
        y: [B, ..., out] or [B, out, H, W].
        x: [B, ..., in] or [B, in, h, w].
        down: [B, R, in * kh * kw].
        up: [B, R, out].
        window: How a convolution slides; None for a linear map.
    """
    shape, num_rows = y.shape, len(y)
    if window is None:
        reduced = torch.bmm(x.reshape(num_rows, -1, x.shape[-1]), down.mT)
        return y.reshape(num_rows, -1, shape[-1]).baddbmm_(reduced, up).view(shape)
    reduced = _shrink_windows(x.contiguous(), down, window)
    # In place: ``y`` keeps its order in memory, on which the rounding of later layers depends.
    return y.add_(torch.bmm(up.mT, reduced).view(shape))


def scale_output(y: Tensor, gains: Tensor, *, bias: Tensor | None, window: Window | None) -> Tensor:
    """Return y + gains * (y - bias): outputs without their bias times 1 + gains [B, out].

    Rows whose gains are zero stay as they are to the bit.
    """
    if window is None:
        gains = gains.view(len(y), *[1] * (y.ndim - 2), -1)
        return torch.addcmul(y, y if bias is None else y - bias, gains)
    plain = y if bias is None else y - bias.view(-1, 1, 1)
    return torch.addcmul(y, plain, gains[:, :, None, None])


def _shrink_windows(x: Tensor, down: Tensor, window: Window) -> Tensor:
    """Return each picture of x [B, in, h, w] convolved with its own ``down``, [B, R, H * W]."""
    if window.is_point:
        return torch.bmm(down, x.flatten(2))
    num_rows, rank = down.shape[:2]
    if num_rows == 1 and x.device.type == "cpu":
        # One picture alone goes to another kernel, which rounds otherwise.
        return _shrink_windows(x.expand(2, -1, -1, -1), down.expand(2, -1, -1), window)[:1]
    reduced = functional.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        down.reshape(num_rows * rank, x.shape[1], *window.kernel),
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=num_rows,
    )
    return reduced.view(num_rows, rank, -1)

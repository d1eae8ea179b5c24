"""``low_rank.add_low_rank`` as one Triton kernel: gather, shrink, expand and add.

A program takes a block of one row's tokens (pixels, of a convolution), shrinks their inputs to
the row's ranks in registers, and expands them onto all outputs; what lies between never leaves
the chip. Programs of rows without an update on this layer end at once, which is why a batch pays
only for the layers its adapters touch although the launch is the same for all.

To a compiler the kernel is one opaque operation, so graphs hold it as it is.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from diptych.kernels.low_rank import Factors, RowTensors, Window

__all__ = ["add_low_rank"]

_LARGEST_RANK: Final = 128
"""Ranks of one launch; what is left of wider ones takes another."""
_SMALLEST_TILE: Final = 16
"""Tensor cores multiply tiles of at least this side."""
_BLOCK_TOKENS: Final = 64
_BLOCK_OUT: Final = 64
_POINT: Final = (1, 1, 1, 1, 0, 0, 1, 1)
"""A linear map as a convolution: kernel, stride, padding and dilation, each (height, width)."""


@triton.jit  # type: ignore[untyped-decorator]
def _shrink(  # noqa: PLR0913 - as the kernel
    x: tl.tensor,
    down: tl.tensor,
    lines: tl.tensor,
    tokens: tl.tensor,
    sizes: tl.tensor,
    strides: tl.tensor,
    SIDES: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
) -> tl.tensor:
    """Return down @ x of one row's tokens, [BLOCK_TOKENS, BLOCK_RANK] float32.

    Sizes are out height * width, out width, in channels, in height * width, in width.
    """
    num_tokens, out_width, num_inputs, num_pixels, in_width = sizes
    channel_stride, token_stride = strides
    num_taps: tl.constexpr = SIDES[0] * SIDES[1]
    out_y, out_x = tokens // out_width, tokens % out_width
    reduced = tl.zeros((BLOCK_TOKENS, BLOCK_RANK), dtype=tl.float32)
    for tap in range(num_taps):
        in_y = out_y * SIDES[2] - SIDES[4] + tap // SIDES[1] * SIDES[6]
        in_x = out_x * SIDES[3] - SIDES[5] + tap % SIDES[1] * SIDES[7]
        is_inside = (tokens < num_tokens) & (in_y >= 0) & (in_y < num_pixels // in_width)
        is_inside = is_inside & (in_x >= 0) & (in_x < in_width)
        pixels = (in_y * in_width + in_x).to(tl.int64) * token_stride
        for start in range(0, num_inputs, BLOCK_IN):
            inputs = start + tl.arange(0, BLOCK_IN)
            is_input = inputs < num_inputs
            seen = tl.load(
                x + pixels[:, None] + inputs[None, :].to(tl.int64) * channel_stride,
                mask=is_inside[:, None] & is_input[None, :],
                other=0.0,
            )
            factor = tl.load(
                down + lines[None, :] + (inputs * num_taps + tap)[:, None],
                mask=is_input[:, None],
                other=0.0,
            )
            reduced = tl.dot(seen, factor, acc=reduced, input_precision="ieee")
    return reduced


@triton.jit  # type: ignore[untyped-decorator]
def _expand(  # noqa: PLR0913 - as the kernel
    y: tl.tensor,
    up: tl.tensor,
    bias: tl.tensor,
    reduced: tl.tensor,
    lines: tl.tensor,
    gain_line: tl.tensor,
    tokens: tl.tensor,
    sizes: tl.tensor,
    strides: tl.tensor,
    GAINS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """Scale one row's tokens of ``y`` and add up @ reduced; sizes are tokens and channels."""
    num_tokens, num_outputs = sizes
    channel_stride, token_stride = strides
    for start in range(0, num_outputs, BLOCK_OUT):
        outputs = start + tl.arange(0, BLOCK_OUT)
        is_output = outputs < num_outputs
        mask = (tokens < num_tokens)[:, None] & is_output[None, :]
        places = outputs[None, :].to(tl.int64) * channel_stride
        places = y + places + tokens[:, None].to(tl.int64) * token_stride
        found = tl.load(places, mask=mask, other=0.0).to(tl.float32)
        if GAINS:
            plain = found
            if BIAS:
                plain -= tl.load(bias + outputs, mask=is_output, other=0.0).to(tl.float32)[None, :]
            gain = tl.load(up + gain_line + outputs, mask=is_output, other=0.0)
            found += plain * gain.to(tl.float32)[None, :]
        factor = tl.load(up + lines[:, None] + outputs[None, :], mask=is_output[None, :], other=0.0)
        found = tl.dot(reduced.to(factor.dtype), factor, acc=found, input_precision="ieee")
        tl.store(places, found.to(y.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # noqa: PLR0913 - a kernel takes every address, size and stride
    y: tl.tensor,
    x: tl.tensor,
    down: tl.tensor,
    up: tl.tensor,
    used: tl.tensor,
    row_lines: tl.tensor,
    row_scales: tl.tensor,
    row_gains: tl.tensor,
    bias: tl.tensor,
    sizes: tl.tensor,
    y_strides: tl.tensor,
    x_strides: tl.tensor,
    line_strides: tl.tensor,
    SIDES: tl.constexpr,
    RANK: tl.constexpr,
    GAINS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """Update one block of one row's tokens; strides are of row, channel and token."""
    num_tokens, num_outputs, num_inputs, num_pixels, out_width, in_width = sizes
    row = tl.program_id(0).to(tl.int64)
    ranks = tl.arange(0, BLOCK_RANK)
    places = row * line_strides[1] + ranks
    lines = tl.load(row_lines + places, mask=ranks < RANK, other=0).to(tl.int64)
    is_used = tl.max(tl.load(used + lines)) != 0
    gain_line = tl.zeros((), dtype=tl.int64)
    if GAINS:
        gain_line += tl.load(row_gains + row).to(tl.int64) * line_strides[0]
    if is_used | (gain_line != 0):
        lines *= line_strides[0]
        tokens = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
        reduced = _shrink(
            x + row * x_strides[0], down, lines, tokens,
            (num_tokens, out_width, num_inputs, num_pixels, in_width), (x_strides[1], x_strides[2]),
            SIDES, BLOCK_TOKENS, BLOCK_RANK, BLOCK_IN,
        )  # fmt: skip
        reduced *= tl.load(row_scales + places, mask=ranks < RANK, other=0.0)[None, :]
        _expand(
            y + row * y_strides[0], up, bias, reduced, lines, gain_line, tokens,
            (num_tokens, num_outputs), (y_strides[1], y_strides[2]),
            GAINS, BIAS, BLOCK_OUT,
        )  # fmt: skip


def add_low_rank(
    y: Tensor,
    x: Tensor,
    *,
    factors: Factors,
    rows: RowTensors,
    bias: Tensor | None,
    window: Window | None,
) -> Tensor:
    """Return y + gain * (y - bias) + up @ scales @ down @ x by row; overwrites ``y`` where it can.

    Shapes are those of ``low_rank.add_low_rank``.
    """
    y, x = _dense(y, window), _dense(x, window)
    sides: list[int] = []
    if window is not None:
        sides = [*window.kernel, *window.stride, *window.padding, *window.dilation]
    _launch(y, x, *factors, rows.lines, rows.scales, rows.out_gains, bias, sides)
    return y


def _dense(tensor: Tensor, window: Window | None) -> Tensor:
    """Return ``tensor`` with its tokens evenly apart, as both usual memory orders have them."""
    order = torch.channels_last
    if window is not None and tensor.is_contiguous(memory_format=order):
        return tensor
    return tensor.contiguous()


@torch.library.custom_op("diptych::add_low_rank", mutates_args={"y"})
def _launch(  # noqa: PLR0913 - an operation takes tensors one by one
    y: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    used: Tensor,
    lines: Tensor,
    scales: Tensor,
    gains: Tensor | None,
    bias: Tensor | None,
    sides: list[int],
) -> None:
    """Change ``y`` in place; ``sides`` is empty for a linear map."""
    in_width, out_width = (x.shape[3], y.shape[3]) if sides else (1, 1)
    # [B, channels, tokens], whatever the memory order
    tokens_x, tokens_y = (
        t.flatten(2) if sides else t.view(len(t), -1, t.shape[-1]).mT for t in (x, y)
    )
    num_rows, num_outputs, num_tokens = tokens_y.shape
    for start in range(0, lines.shape[1], _LARGEST_RANK):
        chunk = lines[:, start : start + _LARGEST_RANK]
        has_gains = gains is not None and start == 0
        tile = max(_SMALLEST_TILE, triton.next_power_of_2(chunk.shape[1]))
        _kernel[num_rows, triton.cdiv(num_tokens, _BLOCK_TOKENS)](
            y,
            x,
            down,
            up,
            used,
            chunk,
            scales[:, start:],
            gains if gains is not None and has_gains else chunk,
            y if bias is None else bias,
            (num_tokens, num_outputs, *tokens_x.shape[1:], out_width, in_width),
            tokens_y.stride(),
            tokens_x.stride(),
            (down.stride(0), chunk.stride(0)),
            SIDES=tuple(sides) or _POINT,
            RANK=chunk.shape[1],
            GAINS=has_gains,
            BIAS=bias is not None,
            BLOCK_TOKENS=_BLOCK_TOKENS,
            BLOCK_RANK=tile,
            BLOCK_IN=32 if tile > _BLOCK_TOKENS else 64,
            BLOCK_OUT=_BLOCK_OUT,
        )

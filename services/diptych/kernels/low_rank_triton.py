"""``low_rank.add_low_rank`` as one Triton kernel: gather, shrink, expand and add.

A program takes a block of one row's tokens (pixels, of a convolution), shrinks their inputs to
the row's ranks in registers, and expands them onto all outputs; what lies between never leaves
the chip. Programs of rows without an update on this layer end at once, which is why a batch pays
only for the layers its adapters touch although the launch is the same for all. Every row pays for
its own ranks, however wide the index: one launch serves them all, and so does one recorded graph.

To a compiler the kernel is one opaque operation that takes tensors in any memory order.
"""

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diptych.kernels.low_rank import Factors, RowTensors, Window

__all__ = ["Blocks", "add_low_rank", "launch"]

_MOST_RANKS: Final = 512
"""Ranks of one launch; what is left of wider ones takes another."""
_POINT: Final = (1, 1, 1, 1, 0, 0, 1, 1)
"""A linear map as a convolution: kernel, stride, padding and dilation, each (height, width)."""


class Blocks(NamedTuple):
    """How the work is cut: sides of tiles, warps of a program, and loads under way in it."""

    tokens: int
    inputs: int
    outputs: int
    num_warps: int
    num_stages: int


_BLOCKS: Final = Blocks(tokens=64, inputs=128, outputs=128, num_warps=4, num_stages=3)
_FEW_TOKENS: Final = 128
_NARROW_BLOCKS: Final = Blocks(tokens=16, inputs=128, outputs=128, num_warps=4, num_stages=3)
"""For texts and vectors: few tokens would leave most of a device idle."""


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
    """Scale one row's tokens of ``y`` and add up @ reduced; sizes are tokens and channels.

    The next tile of ``y`` is on its way while one is worked on: this loop only waits for memory.
    """
    num_tokens, num_outputs = sizes
    channel_stride, token_stride = strides
    is_token = (tokens < num_tokens)[:, None]
    first = tl.arange(0, BLOCK_OUT)
    y += tokens[:, None].to(tl.int64) * token_stride
    coming = tl.load(
        y + first[None, :].to(tl.int64) * channel_stride,
        mask=is_token & (first < num_outputs)[None, :],
        other=0.0,
    )
    reduced = reduced.to(up.dtype.element_ty)
    for start in range(0, num_outputs, BLOCK_OUT):
        outputs = start + first
        ahead = outputs + BLOCK_OUT
        is_output = outputs < num_outputs
        found = coming.to(tl.float32)
        coming = tl.load(
            y + ahead[None, :].to(tl.int64) * channel_stride,
            mask=is_token & (ahead < num_outputs)[None, :],
            other=0.0,
        )
        factor = tl.load(up + lines[:, None] + outputs[None, :], mask=is_output[None, :], other=0.0)
        if GAINS:
            plain = found
            if BIAS:
                plain -= tl.load(bias + outputs, mask=is_output, other=0.0).to(tl.float32)[None, :]
            gain = tl.load(up + gain_line + outputs, mask=is_output, other=0.0)
            found += plain * gain.to(tl.float32)[None, :]
        found = tl.dot(reduced, factor, acc=found, input_precision="ieee")
        places = y + outputs[None, :].to(tl.int64) * channel_stride
        tl.store(places, found.to(y.dtype.element_ty), mask=is_token & is_output[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _update(  # noqa: PLR0913 - as the kernel
    layer: tl.tensor,
    index: tl.tensor,
    gain_line: tl.tensor,
    ranks: tl.tensor,
    tokens: tl.tensor,
    sizes: tl.tensor,
    strides: tl.tensor,
    SIDES: tl.constexpr,
    GAINS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """Add what one row's ``ranks`` [BLOCK_RANK] say of its ``tokens`` [BLOCK_TOKENS].

    Sizes are out height * width, out channels, in channels, in height * width, out and in width;
    strides are of y, of x, each (channel, token), and of a line.
    """
    y, x, down, up, used, bias = layer
    row_lines, row_scales, num_ranks = index
    num_tokens, num_outputs, num_inputs, num_pixels, out_width, in_width = sizes
    lines = tl.load(row_lines + ranks, mask=ranks < num_ranks, other=0).to(tl.int64)
    is_used = tl.max(tl.load(used + lines)) != 0
    if is_used | (gain_line != 0):
        lines *= strides[2]
        reduced = _shrink(
            x, down, lines, tokens,
            (num_tokens, out_width, num_inputs, num_pixels, in_width), strides[1],
            SIDES, BLOCK_TOKENS, BLOCK_RANK, BLOCK_IN,
        )  # fmt: skip
        reduced *= tl.load(row_scales + ranks, mask=ranks < num_ranks, other=0.0)[None, :]
        _expand(
            y, up, bias, reduced, lines, gain_line, tokens, (num_tokens, num_outputs), strides[0],
            GAINS, BIAS, BLOCK_OUT,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _width(row_lines: tl.tensor, num_ranks: tl.tensor, MOST_RANKS: tl.constexpr) -> tl.tensor:
    """Return how many ranks of the index one row uses, counted to its last."""
    places = tl.arange(0, MOST_RANKS)
    lines = tl.load(row_lines + places, mask=places < num_ranks, other=0)
    return tl.max(tl.where(lines != 0, places + 1, 0))


# Sizes that differ by picture and batch: a kernel that knew them would be compiled under traffic.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=("num_tokens", "num_pixels", "out_width", "in_width", "num_ranks")
)
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
    num_tokens: int,
    num_pixels: int,
    out_width: int,
    in_width: int,
    num_ranks: int,
    channels: tl.tensor,
    y_strides: tl.tensor,
    x_strides: tl.tensor,
    line_strides: tl.tensor,
    SIDES: tl.constexpr,
    GAINS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    MOST_RANKS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """Update one block of one row's tokens.

    Strides are of row, channel and token; of a line, of a row of the index and one of the scales.
    """
    # What the layer read and wrote last is still in the cache.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    row = (tl.num_programs(1) - 1 - tl.program_id(1)).to(tl.int64)
    row_lines += row * line_strides[1]
    row_scales += row * line_strides[2]
    width = _width(row_lines, num_ranks, MOST_RANKS)
    gain_line = tl.zeros((), dtype=tl.int64)
    if GAINS:
        gain_line += tl.load(row_gains + row).to(tl.int64) * line_strides[0]
        width = tl.maximum(width, (gain_line != 0).to(tl.int32))
    layer = (y + row * y_strides[0], x + row * x_strides[0], down, up, used, bias)
    index = (row_lines, row_scales, num_ranks)
    tokens = block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    sizes = (num_tokens, channels[0], channels[1], num_pixels, out_width, in_width)
    strides = ((y_strides[1], y_strides[2]), (x_strides[1], x_strides[2]), line_strides[0])
    for start in range(0, width, 64):
        if width - start <= 16:
            _update(layer, index, gain_line, start + tl.arange(0, 16), tokens, sizes, strides,
                    SIDES, GAINS, BIAS, BLOCK_TOKENS, 16, BLOCK_IN, BLOCK_OUT)  # fmt: skip
        elif width - start <= 32:
            _update(layer, index, gain_line, start + tl.arange(0, 32), tokens, sizes, strides,
                    SIDES, GAINS, BIAS, BLOCK_TOKENS, 32, BLOCK_IN, BLOCK_OUT)  # fmt: skip
        else:
            _update(layer, index, gain_line, start + tl.arange(0, 64), tokens, sizes, strides,
                    SIDES, GAINS, BIAS, BLOCK_TOKENS, 64, BLOCK_IN, BLOCK_OUT)  # fmt: skip
        # Gains act once.
        gain_line *= 0


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
    _operation(y, x, *factors, rows.lines, rows.scales, rows.out_gains, bias, sides)
    return y


def _dense(tensor: Tensor, window: Window | None) -> Tensor:
    """Return ``tensor`` with its tokens evenly apart, as both usual memory orders have them."""
    order = torch.channels_last
    if window is not None and tensor.is_contiguous(memory_format=order):
        return tensor
    return tensor.contiguous()


@torch.library.custom_op("diptych::add_low_rank", mutates_args={"y"})
def _operation(  # noqa: PLR0913 - an operation takes tensors one by one
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
    rows = RowTensors(lines=lines, scales=scales, out_gains=gains)
    launch(y, x, factors=Factors(down=down, up=up, used=used), rows=rows, bias=bias, sides=sides)


def launch(
    y: Tensor,
    x: Tensor,
    *,
    factors: Factors,
    rows: RowTensors,
    bias: Tensor | None,
    sides: list[int],
    blocks: Blocks | None = None,
) -> None:
    """Do the operation on ``y`` in place, cut into ``blocks``.

    Args:
        y: [B, ..., out], or [B, out, H, W] where there are ``sides``.
        x: [B, ..., in] or [B, in, h, w]; both with tokens evenly apart.
        factors: The layer's lines.
        rows: The lines each row uses; gains of inputs are the caller's.
        bias: [out], which ``y`` contains.
        sides: Kernel, stride, padding and dilation of a convolution; empty for a linear map.
        blocks: Of the tiles; None chooses by the number of tokens.
    """
    in_width, out_width = (x.shape[3], y.shape[3]) if sides else (1, 1)
    tokens_x, tokens_y = _by_token(x, sides), _by_token(y, sides)
    num_rows, num_outputs, num_tokens = tokens_y.shape
    _, num_inputs, num_pixels = tokens_x.shape
    blocks = blocks or (_NARROW_BLOCKS if num_tokens <= _FEW_TOKENS else _BLOCKS)
    gains = rows.out_gains
    for start in range(0, rows.lines.shape[1], _MOST_RANKS):
        lines = rows.lines[:, start : start + _MOST_RANKS]
        scales = rows.scales[:, start:]
        has_gains = gains is not None and start == 0
        _kernel[triton.cdiv(num_tokens, blocks.tokens), num_rows](
            y,
            x,
            *factors,
            lines,
            scales,
            gains if gains is not None and has_gains else lines,
            y if bias is None else bias,
            num_tokens,
            num_pixels,
            out_width,
            in_width,
            lines.shape[1],
            (num_outputs, num_inputs),
            tokens_y.stride(),
            tokens_x.stride(),
            (factors.down.stride(0), lines.stride(0), scales.stride(0)),
            SIDES=tuple(sides) or _POINT,
            GAINS=has_gains,
            BIAS=bias is not None,
            BLOCK_TOKENS=blocks.tokens,
            MOST_RANKS=_MOST_RANKS,
            BLOCK_IN=blocks.inputs,
            BLOCK_OUT=blocks.outputs,
            num_warps=blocks.num_warps,
            num_stages=blocks.num_stages,
        )


def _by_token(tensor: Tensor, sides: list[int]) -> Tensor:
    """Return ``tensor`` as [B, channels, tokens], whatever its memory order."""
    return tensor.flatten(2) if sides else tensor.view(len(tensor), -1, tensor.shape[-1]).mT

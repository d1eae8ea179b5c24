"""Linear maps and convolutions that add to every row of a batch what its own adapters say.

Without adapters in the batch they are the layers they were, to the bit. A row's update is added
to the output of the frozen weight, never to the weight.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import override

from diptych.adapters.bank import Bank
from diptych.adapters.row_lines import Gathered, Group, Layer, RowLines
from diptych.kernels.low_rank import RowTensors, Window, add_product, scale_output

__all__ = ["AdaptedConv2d", "AdaptedLinear"]


class AdaptedLinear(nn.Linear):
    """A linear map of a network that has a bank."""

    bank: Bank
    layer: Layer

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [B, ..., out] of [B, ..., in]; the first axis is the batch's rows."""
        if self.bank.rows is None:
            return super().forward(input)
        return _forward(super().forward, input, self.bank, self.layer)


class AdaptedConv2d(nn.Conv2d):
    """A convolution of a network that has a bank."""

    bank: Bank
    layer: Layer

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [B, out, H, W] of [B, in, h, w]."""
        if self.bank.rows is None:
            return super().forward(input)
        return _forward(super().forward, input, self.bank, self.layer)


def _forward(plain: Callable[[Tensor], Tensor], x: Tensor, bank: Bank, layer: Layer) -> Tensor:
    rows = bank.rows
    if isinstance(rows, RowTensors):
        return _fixed_forward(plain, x, bank, layer, rows)
    assert isinstance(rows, RowLines)
    gathered = rows.at(layer)
    return plain(x) if gathered is None else _gathered_forward(plain, x, layer, gathered)


def _fixed_forward(
    plain: Callable[[Tensor], Tensor], x: Tensor, bank: Bank, layer: Layer, rows: RowTensors
) -> Tensor:
    """Return the layer's output where shapes may not depend on who is in the batch."""
    scaled = x
    if rows.in_gains is not None:
        lines = layer.factors.down[:, : layer.weight.shape[1]]
        scaled = _scale_input(x, lines[rows.in_gains], layer.window)
    return bank.add_low_rank(
        plain(scaled), x, factors=layer.factors, rows=rows, bias=layer.bias, window=layer.window
    )


def _gathered_forward(
    plain: Callable[[Tensor], Tensor], x: Tensor, layer: Layer, gathered: Gathered
) -> Tensor:
    """Return the layer's output where rows are multiplied in groups of like rank."""
    scaled = x
    if gathered.in_gains is not None:
        scaled = _scale_input(x, gathered.in_gains, layer.window)
    y = plain(scaled)
    if gathered.out_gains is not None:
        y = scale_output(y, gathered.out_gains, bias=layer.bias, window=layer.window)
    for group in gathered.groups:
        y = _add_group(y, x, group, layer.window)
    return y


def _add_group(y: Tensor, x: Tensor, group: Group, window: Window | None) -> Tensor:
    if group.rows is None:
        return add_product(y, x, down=group.down, up=group.up, window=window)
    part = y[group.rows]
    added = add_product(part, x[group.rows], down=group.down, up=group.up, window=window)
    if isinstance(group.rows, Tensor) or added.data_ptr() != part.data_ptr():
        y[group.rows] = added
    return y


def _scale_input(x: Tensor, gains: Tensor, window: Window | None) -> Tensor:
    """Return x * (1 + gains [B, in]); rows whose gains are zero stay as they are to the bit."""
    if window is not None:
        return torch.addcmul(x, x, gains[:, :, None, None])
    return torch.addcmul(x, x, gains.view(len(x), *[1] * (x.ndim - 2), -1))

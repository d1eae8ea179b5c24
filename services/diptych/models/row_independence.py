"""Linear maps and convolutions whose rows, on a CPU, do not depend on how many rows there are.

The libraries below torch choose their kernels by the number of rows: a product of a dozen rows or
fewer sums in another order than a larger one, and a convolution of one small picture goes to
another library than that of two. The last digit that moves is what a long trajectory magnifies a
thousand times and more. These modules always ask for the same kernel, and what else a UNet does
keeps rows apart by itself. On accelerators nothing is replaced.

Weights of convolutions are laid out channels last, and what passes through follows them: oneDNN
has a faster kernel for that, and need not rearrange every input and output.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

__all__ = ["keep_rows_independent"]

_MIN_ROWS: Final = 16
"""Kernels of a matrix product were seen to change up to 11 rows, and never above."""


class _SteadyLinear(nn.Linear):
    """A linear map that fills up a product of few rows with zeros."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] of [..., in]."""
        num_rows = input.numel() // self.in_features
        if num_rows >= _MIN_ROWS:
            return functional.linear(input, self.weight, self.bias)
        rows = functional.pad(input.reshape(num_rows, -1), (0, 0, 0, _MIN_ROWS - num_rows))
        mapped = functional.linear(rows, self.weight, self.bias)
        return mapped[:num_rows].view(*input.shape[:-1], self.out_features)


class _SteadyConv2d(nn.Conv2d):
    """A convolution that one library computes, whatever the batch; zeros around the picture."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [B, out, H, W] of [B, in, h, w]."""
        assert isinstance(self.padding, tuple)
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


def keep_rows_independent(module: nn.Module) -> None:
    """Replace the float32 linear maps and convolutions of ``module`` that lie on a CPU.

    They keep their names and share their weights, of which a convolution's lie in another order
    from then on; results differ from torch's own by rounding.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            steady = _steady(child)
            if steady is not None:
                setattr(parent, name, steady.train(child.training))


def _steady(module: nn.Module) -> nn.Module | None:
    """Return what takes the place of ``module``; None where it stays."""
    if isinstance(module, _SteadyLinear | _SteadyConv2d):
        return None
    if type(module) is nn.Linear and _is_single_on_cpu(module.weight):
        linear = _SteadyLinear(module.in_features, module.out_features, device="meta")
        linear.weight, linear.bias = module.weight, module.bias
        return linear
    if type(module) is nn.Conv2d and _is_single_on_cpu(module.weight) and _has_one_kernel(module):
        conv = _SteadyConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            stride=module.stride,  # type: ignore[arg-type]
            padding=module.padding,  # type: ignore[arg-type]
            dilation=module.dilation,  # type: ignore[arg-type]
            groups=module.groups,
            device="meta",
        )
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        conv.weight, conv.bias = module.weight, module.bias
        return conv
    return None


def _is_single_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _has_one_kernel(conv: nn.Conv2d) -> bool:
    """Return whether oneDNN is there and takes the convolution as it is."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and conv.padding_mode == "zeros"
        and isinstance(conv.padding, tuple)
    )

"""PEFT's LoRA of a linear layer, computed as one function: the same values in fewer passes.

PEFT's forward scales the update and adds it in passes over [..., out] of their own, and autograd
adds the two gradients of the input in another. Here products are added where they are computed.
"""

from typing import Any, Final

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

__all__ = ["fuse"]

_NAME: Final = "default"


def fuse(layer: LoraLayer) -> None:
    """Let ``layer`` compute as one function if it is a plain LoRA of a linear layer.

    The layer keeps its name, weights and identity; only its class changes. DoRA, dropout and
    convolutions are PEFT's own.
    """
    if type(layer) is Linear and not layer.use_dora[_NAME] and _drops_nothing(layer):
        layer.__class__ = _FusedLinear


class _FusedLinear(Linear):
    @override
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return [..., out] of [..., in]."""
        if self.disable_adapters or self.merged or args or kwargs:
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        base = self.get_base_layer()
        down, up = self.lora_A[_NAME].weight, self.lora_B[_NAME].weight
        scale = self.scaling[_NAME]
        found: Tensor = _LowRankLinear.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, down, up, scale
        )
        return found


class _LowRankLinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T with W and b frozen (Hu et al. 2021, equation 3).

    Computed in the dtype of x, to which the factors are cast; their gradients have their own.
    """

    @staticmethod
    @override
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down_cast, up_cast = down.to(x.dtype), up.to(x.dtype)
        inner = rows @ down_cast.t()
        output = functional.linear(rows, weight, bias).addmm_(inner, up_cast.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return output.view(*x.shape[:-1], output.shape[-1])

    @staticmethod
    @override
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        rows, inner, weight, down, up = ctx.saved_tensors
        of_rows = gradient.reshape(-1, gradient.shape[-1])
        of_inner = of_rows @ up.to(rows.dtype)
        of_up = (of_rows.t() @ inner).to(up.dtype).mul_(ctx.scale)
        of_down = (of_inner.t() @ rows).to(down.dtype).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (of_rows @ weight).addmm_(of_inner, down.to(rows.dtype), alpha=ctx.scale)
            of_x = of_x.view(ctx.shape)
        return of_x, None, None, of_down, of_up, None


def _drops_nothing(layer: Linear) -> bool:
    return isinstance(layer.lora_dropout[_NAME], nn.Identity)

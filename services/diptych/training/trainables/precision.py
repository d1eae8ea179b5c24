"""Layers that keep float32 weights and compute in whatever dtype their input has.

Weights that are trained must be float32: in bfloat16 an update below a 256th of a weight is lost.
Autocast would do, but it also takes norms and what follows them to float32, which inference does
not. Cast at their use, float32 weights predict to the bit what the served half-precision model
does, and gradients arrive in float32.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

__all__ = ["compute_in"]


class _CastLinear(nn.Linear):
    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] of [..., in]."""
        return functional.linear(input, *_cast(self, input.dtype))


class _CastConv2d(nn.Conv2d):
    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [B, out, H, W] of [B, in, h, w]."""
        output: Tensor = self._conv_forward(input, *_cast(self, input.dtype))
        return output


class _CastGroupNorm(nn.GroupNorm):
    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [B, C, ...] of the same."""
        return functional.group_norm(input, self.num_groups, *_cast(self, input.dtype), self.eps)


class _CastLayerNorm(nn.LayerNorm):
    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return [..., C] of the same."""
        weight, bias = _cast(self, input.dtype)
        return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class _CastEmbedding(nn.Embedding):
    dtype: torch.dtype

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Return vectors [..., D] of ids [...]."""
        return super().forward(input).to(self.dtype)


_CLASSES: Final[Mapping[type[nn.Module], type[nn.Module]]] = {
    nn.Linear: _CastLinear,
    nn.Conv2d: _CastConv2d,
    nn.GroupNorm: _CastGroupNorm,
    nn.LayerNorm: _CastLayerNorm,
    nn.Embedding: _CastEmbedding,
}


def compute_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Let every layer of ``network`` with float32 weights compute in ``dtype``.

    Layers keep their names, weights and identity; only their class changes. Inputs decide, except
    that embeddings, which have none, give vectors of ``dtype``.
    """
    if dtype is torch.float32:
        return
    for module in network.modules():
        if not any(one.dtype is torch.float32 for one in module.parameters(recurse=False)):
            continue
        module.__class__ = _CLASSES[type(module)]
        if isinstance(module, _CastEmbedding):
            module.dtype = dtype


def _cast(
    module: nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    bias: Tensor | None = module.bias
    return module.weight.to(dtype), None if bias is None else bias.to(dtype)

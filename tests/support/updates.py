"""Small adapters by the numbers, and what they add to weights."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Magnitude, Target
from support.made_adapters import noise

__all__ = ["FIRST", "KERNEL", "SECOND", "adapter_of", "added", "update", "weight_of"]

FIRST = Target(component=Component.UNET, module="blocks.0.to_q")
SECOND = Target(component=Component.UNET, module="blocks.1.to_q")
KERNEL = Target(component=Component.UNET, module="blocks.2.conv")
SHAPES = {FIRST: (24, 16), SECOND: (12, 20), KERNEL: (10, 6, 3, 3)}


def update(
    target: Target, seed: int, *, rank: int = 4, alpha: float = 2.0, side: str | None = None
) -> LowRank:
    """Return a random update of ``target``; ``side`` makes it a DoRA per ``out`` or ``in``."""
    out, *fan_in = SHAPES[target]
    norms = None
    if side is not None:
        norms = noise(out if side == "out" else fan_in[0], seed=seed + 7).abs() + 1
    return LowRank(
        down=noise(rank, *fan_in, seed=seed),
        up=noise(out, rank, seed=seed + 1),
        alpha=alpha,
        magnitude=None if norms is None else Magnitude(norms=norms, per_input=side == "in"),
    )


def adapter_of(
    seed: int,
    *targets: Target,
    rank: int = 4,
    side: str | None = None,
    made_for: MadeFor | None = None,
) -> Adapter:
    """Return an adapter with random updates of ``targets``, by default of two linear layers."""
    chosen = targets or (FIRST, SECOND)
    found = {
        target: update(target, 100 * seed + 10 * index, rank=rank, side=side)
        for index, target in enumerate(chosen)
    }
    return Adapter(targets=MappingProxyType(found), made_for=made_for or MadeFor())


def weight_of(target: Target) -> Tensor:
    """Return the model's weight that ``target`` names."""
    return noise(*SHAPES[target], seed=99)


def added(adapter: Adapter, target: Target) -> Tensor:
    """Return dW [out, in...] float64 of an adapter without magnitudes, zeros without the target."""
    low_rank = _targets(adapter).get(target)
    if low_rank is None:
        return torch.zeros(SHAPES[target], dtype=torch.float64)
    product = low_rank.up.double() @ low_rank.down.double().flatten(1)
    return low_rank.scale * product.view(low_rank.weight_shape)


def _targets(adapter: Adapter) -> Mapping[Target, LowRank]:
    return adapter.targets

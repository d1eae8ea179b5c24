"""Several scaled adapters of one image as one low-rank branch per layer, exactly.

LoRA updates add up by joining their ranks, with every scale folded into ``up``. DoRA's learned
norms (Liu et al. 2024, eq. 5) become a gain on what the layer makes without adapters:

- norms per output, as PEFT computes them: W' = g * (W + s BA) with g = m / ||W + s BA|| over
  each output's weights, where s holds the caller's scale too;
- norms per input, as ComfyUI computes ``dora_scale`` [1, in]: W' = W + t ((W + s BA) * g - W)
  with g = m / ||W + s BA|| over each input's weights and the caller's scale t outside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter, LowRank
from diptych.adapters.naming import Component, Stage
from diptych.errors import AdapterMismatch, FieldViolation, InvalidRequest

__all__ = ["MAX_BOUND_RANK", "Branch", "ScaledAdapter", "bind", "plain_shape", "updates_of"]

MAX_BOUND_RANK: Final = 512
"""Largest sum of ranks on one layer in one image."""
_ENCODERS: Final = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """What one layer gains: (1 + out_gain) * (W @ ((1 + in_gain) * x)) + up @ down @ x + bias."""

    down: Tensor
    """[R, in] or [R, in, kh, kw] float32; R may be 0."""
    up: Tensor
    """[out, R] float32, with all scales in it."""
    out_gain: Tensor | None = None
    """[out] float32"""
    in_gain: Tensor | None = None
    """[in] float32"""

    @property
    def rank(self) -> int:
        """Return R."""
        return self.down.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledAdapter:
    """One adapter's part for one network, and how strongly each layer takes it."""

    name: str
    """What the caller called it, for messages."""
    updates: Mapping[str, LowRank]
    """By module of the network."""
    scale_of: Callable[[str], float]
    """The caller's scale by module; alpha / rank comes on top."""


def updates_of(
    adapter: Adapter, component: Component, *, stage: Stage = Stage.BASE
) -> dict[str, LowRank]:
    """Return what ``adapter`` adds to one network of the expert ``stage``, by module.

    The refiner's UNet takes the factors an adapter of both stages has for it, else the UNet's.
    An adapter for the other stage adds nothing.

    Args:
        adapter: Any.
        component: ``UNET``, whichever expert's, or a text encoder.
        stage: The expert, ``BASE`` or ``REFINER``.
    """
    assert component in (Component.UNET, *_ENCODERS)
    if adapter.made_for.stage not in (stage, Stage.BOTH):
        return {}
    sources: Sequence[Component] = [component]
    if component is Component.UNET and stage is Stage.REFINER:
        sources = [Component.REFINER_UNET, Component.UNET]
    for source in sources:
        found = {t.module: u for t, u in adapter.targets.items() if t.component is source}
        if found:
            return found
    return {}


def bind(
    adapters: Sequence[ScaledAdapter], weight_of: Callable[[str], Tensor | None]
) -> dict[str, Branch]:
    """Return one branch per layer that any of ``adapters`` changes.

    Args:
        adapters: In the order the caller gave them, which does not matter to the sum.
        weight_of: A layer's weight [out, in] or [out, in, kh, kw] by module; None if the network
            has no such layer.

    Raises:
        AdapterMismatch: An adapter has a layer that the network has not, or of another shape.
        InvalidRequest: The ranks on one layer exceed ``MAX_BOUND_RANK``, or one layer has DoRA
            norms of both kinds, which no single pair of gains can say.
    """
    pieces: dict[str, list[Branch]] = {}
    for adapter in adapters:
        for module, update in adapter.updates.items():
            weight = weight_of(module)
            _check_shape(adapter.name, module, update, weight)
            assert weight is not None
            scale = adapter.scale_of(module)
            if scale != 0.0 or _stays_at_zero(update):
                pieces.setdefault(module, []).append(_scaled(update, scale, weight))
    return {module: _joined(module, found) for module, found in pieces.items()}


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a weight's ``shape`` with a kernel of one pixel left out: it is as a linear layer."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _check_shape(name: str, module: str, update: LowRank, weight: Tensor | None) -> None:
    actual = None if weight is None else tuple(weight.shape)
    if actual is not None and plain_shape(actual) == plain_shape(update.weight_shape):
        return
    raise AdapterMismatch(
        adapter=name,
        field=f"weight {module}",
        made_for=str(list(update.weight_shape)),
        used_on="missing" if actual is None else str(list(actual)),
    )


def _stays_at_zero(update: LowRank) -> bool:
    """Return whether an update acts at scale 0: PEFT still sets DoRA's norms per output then."""
    return update.magnitude is not None and not update.magnitude.per_input


def _scaled(update: LowRank, scale: float, weight: Tensor) -> Branch:
    """Return one adapter's branch on one layer.

    Only norms need the weight, on whichever device it is. All else stays where the factors lie:
    reading a LoRA does not wait for what a device is busy with.
    """
    home, device, magnitude = update.down.device, weight.device, update.magnitude
    down, up = update.down.float(), update.up.float()
    down = down.view(len(down), *weight.shape[1:])
    if magnitude is None:
        return Branch(down=down, up=up * (update.scale * scale))
    norms = magnitude.norms.float()
    if magnitude.per_input:
        up = up * update.scale
        actual = _norms_per_input(weight, down.to(device), up.to(device)).to(home)
        gain = norms / (actual + torch.finfo(torch.float32).eps)
        shape = (-1, *[1] * (down.ndim - 2))
        return Branch(down=down * gain.view(shape), up=up * scale, in_gain=scale * (gain - 1.0))
    up = up * (update.scale * scale)
    gain = norms / _norms_per_output(weight, down.to(device), up.to(device)).to(home)
    if scale == 0.0:
        down, up = down[:0], up[:, :0]
    return Branch(down=down, up=up * gain[:, None], out_gain=gain - 1.0)


def _norms_per_output(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return ||W + up @ down|| over each output's weights, [out], without forming the sum."""
    flat, down = weight.float().flatten(1), down.flatten(1)
    cross = (up * (flat @ down.mT)).sum(1)
    own = (up * (up @ (down @ down.mT))).sum(1)
    return (flat.square().sum(1) + 2.0 * cross + own).clamp(min=0.0).sqrt()


def _norms_per_input(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return ||W + up @ down|| over each input's weights, [in], without forming the sum."""
    flat, columns = weight.float().flatten(1), down.flatten(1)
    cross = (columns * (up.mT @ flat)).sum(0)
    own = (columns * (up.mT @ up @ columns)).sum(0)
    squares = flat.square().sum(0) + 2.0 * cross + own
    return squares.view(weight.shape[1], -1).sum(1).clamp(min=0.0).sqrt()


def _joined(module: str, branches: Sequence[Branch]) -> Branch:
    """Return the sum of ``branches``: ranks side by side, gains added."""
    out_gains = [branch.out_gain for branch in branches if branch.out_gain is not None]
    in_gains = [branch.in_gain for branch in branches if branch.in_gain is not None]
    rank = sum(branch.rank for branch in branches)
    if rank > MAX_BOUND_RANK:
        _refuse(f"ranks on {module} add up to {rank}, over the limit of {MAX_BOUND_RANK}")
    if out_gains and in_gains:
        _refuse(f"{module} has DoRA norms per output and per input, which cannot be combined")
    if len(branches) == 1:
        return branches[0]
    return Branch(
        down=torch.cat([branch.down for branch in branches]),
        up=torch.cat([branch.up for branch in branches], dim=1),
        out_gain=torch.stack(out_gains).sum(0) if out_gains else None,
        in_gain=torch.stack(in_gains).sum(0) if in_gains else None,
    )


def _refuse(description: str) -> None:
    raise InvalidRequest([FieldViolation(field="adapters", description=description)])

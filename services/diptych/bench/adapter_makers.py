"""Adapters made of noise for the networks of a pair, in the sizes and kinds that people share.

What a branch costs and whether it is added right does not depend on what it learned.
"""

import re
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Magnitude,
    Stage,
    Target,
)
from diptych.inference.base_weights import BaseWeights, weights_of
from diptych.inference.trajectory import Expert
from diptych.models.experts import Experts

__all__ = ["ATTENTION", "CONVOLUTIONS", "EVERY_LAYER", "TRANSFORMERS", "Made", "make", "of_base"]

ATTENTION: Final = r".*\.(to_q|to_k|to_v|to_out\.0|q_proj|k_proj|v_proj|out_proj)"
"""What diffusers' own training scripts adapt."""
TRANSFORMERS: Final = (
    rf"{ATTENTION}|.*\.(proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)|.*\.mlp\.(fc1|fc2)"
)
"""What kohya's adapt by default."""
CONVOLUTIONS: Final = rf"{TRANSFORMERS}|.*\.(conv1|conv2|conv|conv_shortcut)"
"""LoCon's layers."""
EVERY_LAYER: Final = r"(?!text_model\.text_projection).*"
"""Every layer that kohya's files have a name for."""
ENCODERS: Final = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One adapter to make."""

    seed: int
    rank: int = 0
    """0 makes no updates."""
    layers: str = ATTENTION
    """A pattern of names."""
    components: tuple[Component, ...] = (Component.UNET,)
    stage: Stage = Stage.BOTH
    alpha: float | None = None
    """None is the rank."""
    unlike_alphas: bool = False
    """Every layer has an alpha of its own."""
    norms: str | None = None
    """``outputs`` or ``inputs`` makes it a DoRA."""
    token: str | None = None
    strength: float = 0.1
    """Standard deviation of the update, over that of the weight."""


def of_base(experts: Experts) -> BaseWeights:
    """Return the weights that adapters are made for: the base's, or the only expert's."""
    first = experts.hosted[0]
    encoders = {encoder.name: encoder.module for encoder in first.text.encoders}
    return weights_of(Expert(first.name), first.unet.module, encoders)


def make(made: Made, base: BaseWeights) -> Adapter:
    """Return the adapter; the same for the same seed and shapes."""
    generator = torch.Generator().manual_seed(made.seed)
    targets: dict[Target, LowRank] = {}
    for component in made.components if made.rank else ():
        for module, weight in base.weights[component].items():
            if re.fullmatch(made.layers, module):
                update = _update(made, weight, generator, number=len(targets))
                targets[Target(component=component, module=module)] = update
    tokens: dict[str, LearnedToken] = {}
    if made.token is not None:
        vectors = {
            part: 0.1 * torch.randn(2, base.token_widths[part], generator=generator)
            for part in ENCODERS
        }
        tokens = {made.token: LearnedToken(vectors=vectors)}
    return Adapter(targets=targets, tokens=tokens, made_for=MadeFor(stage=made.stage))


def _update(made: Made, weight: Tensor, generator: torch.Generator, *, number: int) -> LowRank:
    weight = weight.detach()
    alpha = made.rank if made.alpha is None else made.alpha
    if made.unlike_alphas:
        alpha = 1 + number % made.rank
    fan_in = weight[0].numel()
    size = made.strength * float(weight.float().std()) * made.rank**0.5 / alpha
    magnitude = None
    if made.norms is not None:
        magnitude = _magnitude(weight.float().cpu(), generator, per_input=made.norms == "inputs")
    return LowRank(
        down=torch.randn(made.rank, *weight.shape[1:], generator=generator) / fan_in**0.5,
        up=torch.randn(len(weight), made.rank, generator=generator) * size * fan_in**0.5,
        alpha=float(alpha),
        magnitude=magnitude,
    )


def _magnitude(weight: Tensor, generator: torch.Generator, *, per_input: bool) -> Magnitude:
    sides = weight.transpose(0, 1) if per_input else weight
    norms = sides.flatten(1).norm(dim=1)
    return Magnitude(
        norms=norms * (1 + 0.1 * torch.randn(len(norms), generator=generator)), per_input=per_input
    )

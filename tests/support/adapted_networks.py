"""The nano pair's networks with updates in their weights, which every other way must equal."""

import copy
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Magnitude, Target
from support.made_adapters import noise
from support.weight_updates import delta

__all__ = ["PARTS", "full_name", "run_network", "wide_adapter", "with_updates"]

PARTS = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


def full_name(part: Component, name: str) -> str:
    """Return a module's name as adapters have it, given that of this version of transformers."""
    return f"text_model.{name}" if part is not Component.UNET and name.startswith("enc") else name


def wide_adapter(pipeline: Any, *, dora: bool = False) -> Adapter:
    """Return an adapter of mixed ranks and alphas for some layers of every kind."""
    targets: dict[Target, LowRank] = {}
    kinds: Counter[tuple[Component, str]] = Counter()
    for part in PARTS:
        for name, module in getattr(pipeline, part).named_modules():
            kind = (part, re.sub(r".*(attentions|resnets|layers)", "", name))
            kind = (part, re.sub(r"\d+", "0", kind[1]))
            if isinstance(module, nn.Linear | nn.Conv2d) and kinds[kind] < 2:
                kinds[kind] += 1
                target = Target(component=part, module=full_name(part, name))
                targets[target] = _update_of(module.weight, len(targets), dora=dora)
    return Adapter(targets=targets, made_for=MadeFor(family="nano"))


def with_updates(pipeline: Any, adapter: Adapter, part: Component) -> Any:
    """Return a copy of one of the pipeline's networks with the updates in its weights."""
    network = copy.deepcopy(getattr(pipeline, part))
    modules = {full_name(part, name): module for name, module in network.named_modules()}
    for target, low_rank in adapter.targets.items():
        if target.component is part:
            weight = modules[target.module].weight
            weight.data.copy_(_changed(weight.data, low_rank))
    return network


@torch.no_grad()
def run_network(network: Any, part: Component) -> Tensor:
    """Return all that a network says of one fixed input."""
    if part is Component.UNET:
        added = {"text_embeds": noise(1, 64, seed=3), "time_ids": torch.full((1, 6), 128.0)}
        context = noise(1, 77, 128, seed=2)
        sample: Tensor = network(noise(1, 4, 16, 16), 500, context, added_cond_kwargs=added).sample
        return sample
    found = network(torch.arange(77).unsqueeze(0), output_hidden_states=True)
    return torch.cat([found.hidden_states[-1].flatten(), found[0].flatten()])


def _update_of(weight: Tensor, index: int, *, dora: bool) -> LowRank:
    rank = 2 + index % 3
    norms = weight.flatten(1).norm(dim=1) * (1 + 0.1 * noise(weight.shape[0], seed=index))
    return LowRank(
        down=noise(rank, *weight.shape[1:], seed=index) / weight[0].numel() ** 0.5,
        up=noise(weight.shape[0], rank, seed=index + 1000) * 0.02,
        alpha=1.5 + index % 5,
        magnitude=Magnitude(norms=norms.detach(), per_input=False) if dora else None,
    )


def _changed(weight: Tensor, low_rank: LowRank) -> Tensor:
    """Return W + dW, or DoRA's weight (Liu et al. 2024, eq. 5) over each output's inputs."""
    merged = weight.double() + delta(low_rank)
    if low_rank.magnitude is None:
        return merged
    assert not low_rank.magnitude.per_input
    scale = low_rank.magnitude.norms.double() / merged.flatten(1).norm(dim=1)
    changed: Tensor = merged * scale.view(-1, *(1,) * (weight.ndim - 1))
    return changed

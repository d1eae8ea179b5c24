"""Stock diffusers, given a file that we write, computes what the updates added to weights do."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Target
from diptych.adapters.keymap import Style
from diptych.adapters.kohya import write_kohya
from support.made_adapters import noise
from support.weight_updates import delta

PARTS = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


@pytest.fixture(scope="module")
def pipeline(nano_pair: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)


@pytest.fixture(
    scope="module",
    params=[("diffusers", False), ("sgm", False), ("sgm", True)],
    ids=["diffusers", "sgm", "alphas-are-ranks"],
)
def adapted(request: pytest.FixtureRequest, pipeline: Any) -> tuple[Adapter, Any]:
    """Return an adapter of nearly every layer, and the pipeline with it, loaded by diffusers."""
    style, alphas_are_ranks = request.param
    adapter = whole_adapter(pipeline, style, alphas_are_ranks=alphas_are_ranks)
    theirs = copy.deepcopy(pipeline)
    theirs.load_lora_weights(dict(write_kohya(adapter, style=style)[0]))
    return adapter, theirs


def whole_adapter(pipeline: Any, style: Style, *, alphas_are_ranks: bool) -> Adapter:
    """Return an update of all that diffusers can read in a kohya file of ``style``.

    In its own spelling it knows no ``add_embedding``. Of alphas that are not all the same it
    applies those of convolutions and feed-forward layers; all others have the commonest one.
    """
    targets: dict[Target, LowRank] = {}
    for part in PARTS:
        for name, module in getattr(pipeline, part).named_modules():
            is_unread = style == "diffusers" and name.startswith("add_embedding")
            if isinstance(module, nn.Linear | nn.Conv2d) and not is_unread:
                full = f"text_model.{name}" if name.startswith("encoder.") else name
                target = Target(component=part, module=full)
                update = update_of(module.weight, name, len(targets))
                alpha = float(update.rank) if alphas_are_ranks else update.alpha
                targets[target] = replace(update, alpha=alpha)
    return Adapter(targets=targets, made_for=MadeFor(family="nano"))


def update_of(weight: Tensor, name: str, index: int) -> LowRank:
    rank, is_varied = 2 + index % 3, "resnets" in name or ".ff." in name
    return LowRank(
        down=noise(rank, *weight.shape[1:], seed=index) / weight[0].numel() ** 0.5,
        up=noise(weight.shape[0], rank, seed=index + 1000) * 0.05,
        alpha=float(1 + index % 5) if is_varied else 4.0,
    )


def with_updates_added(pipeline: Any, adapter: Adapter, part: Component) -> Any:
    """Return a copy of one of the pipeline's networks whose weights have the updates in them."""
    network = copy.deepcopy(getattr(pipeline, part))
    for target, low_rank in adapter.targets.items():
        if target.component is part:
            is_bare = part is not Component.UNET and not hasattr(network, "text_model")
            module = target.module.removeprefix("text_model.") if is_bare else target.module
            weight = network.get_submodule(module).weight
            weight.data.copy_(weight.double() + delta(low_rank))
    return network


@torch.no_grad()
def run(network: Any, part: Component) -> Tensor:
    """Return all that a network says of one fixed input."""
    if part is Component.UNET:
        added = {"text_embeds": noise(1, 64, seed=3), "time_ids": torch.full((1, 6), 128.0)}
        context = noise(1, 77, 128, seed=2)
        sample: Tensor = network(noise(1, 4, 16, 16), 500, context, added_cond_kwargs=added).sample
        return sample
    found = network(torch.arange(77).unsqueeze(0), output_hidden_states=True)
    return torch.cat([found.hidden_states[-1].flatten(), found[0].flatten()])


@pytest.mark.parametrize("part", PARTS)
def test_equals_updates_added_to_the_weights(
    adapted: tuple[Adapter, Any], pipeline: Any, part: Component
) -> None:
    adapter, theirs = adapted
    expected = run(with_updates_added(pipeline, adapter, part), part)
    assert (expected - run(getattr(pipeline, part), part)).abs().max() > 0.1
    found = run(getattr(theirs, part), part)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.0)

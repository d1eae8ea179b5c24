"""The experts as a zip sees them: networks of its own around the served weights, and its prompts.

Serving goes on meanwhile. A copy of a UNet's modules shares its parameters and nothing else, so
neither the layers that the engine has wrapped nor what its attention remembers take part. Text
encoders are called as the engine calls them, one call at a time behind their own lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, LowRank, Target
from diptych.adapters.merge.blending import Blend
from diptych.adapters.merge.zipping import Columns
from diptych.adapters.naming import Component
from diptych.inference.conditions import Conditions
from diptych.models.experts import Expert as LoadedExpert
from diptych.models.text_encoders import PromptRow, TextEncoder, TextVariant
from diptych.models.unet import Unet

__all__ = ["Network", "Weighted", "conditions_of", "private_network"]

_AESTHETIC_SCORES = (6.0, 2.5)
_PREFIX = "text_model."

Weighted = tuple[LowRank, float]
"""An update and what it is multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """One expert's UNet, for one zip alone."""

    unet: UNet2DConditionModel
    expert: LoadedExpert
    blend: Blend | None
    """None of an expert that the adapters do not change."""

    def predict(self, x: Tensor, timestep: int, told: Conditions, *, shows: int | None) -> Tensor:
        """Return the prediction [B, 4, h, w] float32.

        Args:
            x: Noisy latents [B, 4, h, w].
            timestep: Of all rows.
            told: A row for each of ``x``.
            shows: As ``Blend.showing``; ignored without a blend.
        """
        steps = torch.full((len(x),), float(timestep), device=x.device)
        more = {"text_embeds": told.pooled, "time_ids": told.time_ids}
        with ExitStack() as stack:
            if self.blend is not None:
                stack.enter_context(self.blend.showing(shows))
            out: Tensor = self.unet(
                x.to(self.expert.unet.dtype),
                steps,
                told.hidden,
                added_cond_kwargs=more,
                return_dict=False,
            )[0]
        return out.float()


def private_network(expert: LoadedExpert, columns: Mapping[str, Columns] | None) -> Network:
    """Return a network around the weights of ``expert``, none of which is copied or changed.

    Args:
        expert: Served by others at the same time.
        columns: What a zip learns of it, by layer; None leaves it as it is.
    """
    unet = _own_modules(expert.unet)
    if expert.unet.device.type != "cpu":
        unet.enable_gradient_checkpointing()
    blend = None if columns is None else Blend(unet, columns)
    return Network(unet=unet, expert=expert, blend=blend)


def conditions_of(
    expert: LoadedExpert,
    prompt: str,
    adapter: Adapter,
    updates: Mapping[Target, Sequence[Weighted]],
    *,
    size: int,
    field: str,
) -> Conditions:
    """Return what ``expert`` is told of a prompt, and of none: 2 rows.

    Args:
        expert: Whose encoders are used.
        prompt: May hold the adapter's learned tokens.
        adapter: Whose tokens they are.
        updates: What the text encoders' weights get; UNet targets are ignored.
        size: Of the picture, pixels.
        field: What an error calls the prompt.

    Raises:
        PromptTooLong: The prompt does not fit one window.
    """
    tokens: dict[str, dict[str, Tensor]] = {}
    for text, learned in adapter.tokens.items():
        for component, vectors in learned.vectors.items():
            tokens.setdefault(str(component), {})[text] = vectors
    variant = TextVariant(tokens=MappingProxyType(tokens), weights=updates)
    rows = [PromptRow(text=text, field=field, variant=variant) for text in (prompt, None)]
    embeds = expert.text.encode(rows, _using)
    ids = [
        expert.family.time_ids(
            original_size=(size, size),
            crop_top_left=(0, 0),
            target_size=(size, size),
            aesthetic_score=score,
        )
        for score in _AESTHETIC_SCORES
    ]
    # Copies: what is made in inference mode cannot take part in training.
    return Conditions(
        hidden=torch.cat([row.hidden.clone() for row in embeds]),
        pooled=torch.cat([row.pooled.clone() for row in embeds]),
        time_ids=torch.tensor(ids, dtype=torch.float32, device=expert.unet.device),
    )


@contextmanager
def _using(encoder: TextEncoder, variants: Sequence[TextVariant | None]) -> Iterator[None]:
    """Add the updates of the one variant to the layers of an encoder, whose lock is held."""
    found = next(variant for variant in variants if variant is not None).weights
    assert isinstance(found, Mapping)
    with ExitStack() as stack:
        for target, updates in found.items():
            if target.component is Component(encoder.name):
                layer = _layer(encoder.module, target.module)
                hook = layer.register_forward_hook(_adding(updates))
                stack.callback(hook.remove)
        yield


def _adding(
    updates: Sequence[Weighted],
) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    def add(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        for low_rank, weight in updates:
            down, up = low_rank.down.to(args[0]), low_rank.up.to(args[0])
            product = nn.functional.linear(nn.functional.linear(args[0], down), up)
            output = output + product * (low_rank.scale * weight)
        return output

    return add


def _layer(encoder: nn.Module, module: str) -> nn.Module:
    names = dict(encoder.named_modules())
    found: nn.Module = names[module] if module in names else names[module.removeprefix(_PREFIX)]
    return found


def _own_modules(unet: Unet) -> UNet2DConditionModel:
    with torch.device("meta"):
        module: UNet2DConditionModel = UNet2DConditionModel.from_config(unet.module.config)
    module.load_state_dict(unet.module.state_dict(), strict=True, assign=True)
    return module.requires_grad_(requires_grad=False).eval()

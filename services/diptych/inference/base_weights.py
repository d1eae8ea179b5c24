"""The weights that adapters change, by the names that adapters give them.

Taken when an expert is loaded, before anything wraps its layers: these are the parameters
themselves, which nothing ever writes to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, LowRank, Target
from diptych.adapters.binding import plain_shape
from diptych.adapters.naming import Component, Stage
from diptych.errors import AdapterMismatch, FieldViolation, InvalidRequest
from diptych.inference.trajectory import Expert

__all__ = ["BaseWeights", "check_shapes", "weight_of", "weights_of"]

ENCODERS: Final = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
UNETS: Final = (Component.UNET, Component.REFINER_UNET)
PREFIX: Final = "text_model."
"""What transformers puts before an encoder's modules in one class and not in the other."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseWeights:
    """What of one expert adapters may change."""

    expert: Expert
    weights: Mapping[Component, Mapping[str, Tensor]]
    """By component, then by module: [out, in] or [out, in, kh, kw]."""
    token_widths: Mapping[Component, int]
    """Width of a token's vector, by text encoder."""

    def components(self, adapter: Adapter) -> dict[Component, Component]:
        """Return which of an adapter's components act on which of this expert's."""
        unet = Component.UNET
        has_own = any(target.component is Component.REFINER_UNET for target in adapter.targets)
        if self.expert is Expert.REFINER and adapter.made_for.stage is Stage.BOTH and has_own:
            unet = Component.REFINER_UNET
        return {unet: Component.UNET} | {part: part for part in ENCODERS}


def weights_of(expert: Expert, unet: nn.Module, encoders: Mapping[str, nn.Module]) -> BaseWeights:
    """Return the weights of a UNet and its text encoders, by ``text_encoder[_2]``."""
    found = {Component.UNET: _layers(unet, "")}
    widths: dict[Component, int] = {}
    for name, encoder in encoders.items():
        found[Component(name)] = _layers(encoder, PREFIX)
        embeddings = [m for m in encoder.modules() if isinstance(m, nn.Embedding)]
        widths[Component(name)] = embeddings[0].embedding_dim
    return BaseWeights(
        expert=expert, weights=MappingProxyType(found), token_widths=MappingProxyType(widths)
    )


def check_shapes(adapter: Adapter, base: BaseWeights, *, name: str) -> None:
    """Return if every target and token of ``adapter`` has its place in an expert.

    An adapter of both stages may change an encoder that one of the experts does without.

    Raises:
        AdapterMismatch: The first that has not is named.
    """
    places = base.components(adapter)
    lenient = adapter.made_for.stage is Stage.BOTH
    for target, low_rank in adapter.targets.items():
        component = places.get(target.component)
        if component is None or (lenient and component not in base.weights):
            continue
        _check_weight(target, low_rank, base.weights.get(component, {}), name)
    for text, token in adapter.tokens.items():
        for component, vectors in token.vectors.items():
            width = base.token_widths.get(component)
            if (width is None and lenient) or width == vectors.shape[-1]:
                continue
            raise AdapterMismatch(
                adapter=name,
                field=f"token {text!r:.80} of {component}",
                made_for=f"of width {vectors.shape[-1]}",
                used_on="has no such encoder" if width is None else f"of width {width}",
            )


def weight_of(target: Target, bases: Mapping[Expert, BaseWeights], stage: Stage) -> Tensor:
    """Return the weight that ``target`` of a merged adapter of ``stage`` changes.

    Raises:
        InvalidRequest: This server hosts no such weight.
    """
    expert = Expert.REFINER if stage is Stage.REFINER else Expert.BASE
    if target.component is Component.REFINER_UNET:
        expert = Expert.REFINER
    component = Component.UNET if target.component in UNETS else target.component
    weights = bases[expert].weights.get(component, {}) if expert in bases else {}
    if target.module not in weights:
        problem = f"a DoRA changes {target.component}.{target.module}, which is not hosted here"
        raise InvalidRequest([FieldViolation(field="sources", description=problem)])
    return weights[target.module].detach()


def _check_weight(
    target: Target, low_rank: LowRank, weights: Mapping[str, Tensor], name: str
) -> None:
    field = f"{target.component}.{target.module}"
    weight = weights.get(target.module)
    if weight is None:
        made_for = f"of shape {list(low_rank.weight_shape)}"
        raise AdapterMismatch(
            adapter=name, field=field, made_for=made_for, used_on="has no such weight"
        )
    if plain_shape(low_rank.weight_shape) != plain_shape(tuple(weight.shape)):
        raise AdapterMismatch(
            adapter=name,
            field=field,
            made_for=f"of shape {list(low_rank.weight_shape)}",
            used_on=f"of shape {list(weight.shape)}",
        )


def _layers(network: nn.Module, prefix: str) -> Mapping[str, Tensor]:
    layers = {
        name if name.startswith(prefix) else prefix + name: module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    return MappingProxyType(layers)

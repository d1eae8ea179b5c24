"""What adapters make of a picture elsewhere: in stock diffusers, or added to the weights.

Every picture is painted by fresh copies of both pipelines, as nothing that diffusers loads comes
off again without a trace.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diptych.adapters.adapter import Component, LowRank, Stage
from diptych.bench.adapter_sets import AdapterFiles, AdapterSet, Used
from diptych.bench.recipes import Recipe
from diptych.bench.reference import Reference

__all__ = ["AdaptedReference"]

_ENCODERS = {
    Component.TEXT_ENCODER: ("text_encoder", "tokenizer"),
    Component.TEXT_ENCODER_2: ("text_encoder_2", "tokenizer_2"),
}
_PREFIX = "text_model."


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedReference:
    """diffusers' two pipelines, and the adapters by name."""

    pristine: Reference
    files: Mapping[str, AdapterFiles]
    folder: Path
    """Where their files are put for diffusers."""

    def latents(self, recipe: Recipe, adapters: AdapterSet) -> NDArray[np.float32]:
        """Paint ``recipe`` with ``adapters`` and return its latents, [N, 4, h, w]."""
        apply = self._add_to_weights if adapters.in_weights else self._load
        pipelines = {
            stage: copy.deepcopy(pipeline)
            for stage, pipeline in (
                (Stage.BASE, self.pristine.base),
                (Stage.REFINER, self.pristine.refiner),
            )
        }
        for stage, pipeline in pipelines.items():
            made_for = [self.files[use.name].adapter.made_for.stage for use in adapters.uses]
            own = [
                use
                for use, of in zip(adapters.uses, made_for, strict=True)
                if of in (stage, Stage.BOTH)
            ]
            if own:
                apply(pipeline, own)
        both = replace(self.pristine, base=pipelines[Stage.BASE], refiner=pipelines[Stage.REFINER])
        return both.paint(recipe).latents

    def _load(self, pipeline: Any, uses: Sequence[Used]) -> None:  # noqa: ANN401 - untyped
        """Load files as a user of diffusers does."""
        scales: dict[str, object] = {}
        for use in uses:
            files = self.files[use.name]
            if files.lora is not None:
                scales[use.name] = _weights_argument(use)
                path = self.folder / f"{use.name}.safetensors"
                path.write_bytes(files.lora)
                # By its path: what lora_adapter_metadata says is lost on loaded tensors.
                pipeline.load_lora_weights(
                    str(self.folder), weight_name=path.name, adapter_name=use.name
                )
            for text, token in files.adapter.tokens.items():
                for component, vectors in token.vectors.items():
                    encoder, tokenizer = (getattr(pipeline, name) for name in _ENCODERS[component])
                    if encoder is not None:
                        pipeline.load_textual_inversion(
                            vectors, token=text, text_encoder=encoder, tokenizer=tokenizer
                        )
        if scales:
            pipeline.set_adapters(list(scales), adapter_weights=list(scales.values()))

    @torch.no_grad()
    def _add_to_weights(self, pipeline: Any, uses: Sequence[Used]) -> None:  # noqa: ANN401
        """Add updates to the weights, computed in float64."""
        for use in uses:
            assert not use.parts
            for target, update in self.files[use.name].adapter.targets.items():
                network = getattr(pipeline, str(target.component))
                if network is not None:
                    layer = _submodule(network, target.module)
                    layer.weight.copy_(_changed(layer.weight, update, use.scale))


def _weights_argument(use: Used) -> object:
    """Return a use's scale as ``set_adapters`` takes it: a number, or a dictionary by block."""
    if not use.parts:
        return use.scale
    assert use.scale == 1.0
    found: dict[str, Any] = {}
    for part, factor in use.parts.items():
        *path, last = part.split(".")
        place = found
        for step in path:
            place = place.setdefault(step, {})
        place[last] = factor
    return found


def _submodule(network: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """Return a layer by the name that adapters give it; some encoders have one level less."""
    bare = name.removeprefix(_PREFIX) if not hasattr(network, "text_model") else name
    layer = network.get_submodule(bare)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer


def _changed(weight: Tensor, update: LowRank, scale: float) -> Tensor:
    """Return a weight with an update, in float64.

    DoRA's norms over inputs act as in ComfyUI: W + t ((W + dW) m / ||W + dW|| - W).
    """
    plain = weight.double()
    product = update.up.double() @ update.down.double().flatten(1)
    delta = update.scale * product.view(weight.shape)
    if update.magnitude is None:
        return plain + scale * delta
    assert update.magnitude.per_input
    whole = plain + delta
    norms = whole.transpose(0, 1).flatten(1).norm(dim=1)
    gain = (update.magnitude.norms.double() / norms).view(1, -1, *[1] * (weight.ndim - 2))
    changed: Tensor = plain + scale * (whole * gain - plain)
    return changed

"""Adapters in diffusers' and PEFT's files.

A file without a configuration has scale 1 everywhere, as diffusers loads it. diffusers keeps a
LoraConfig per component in the header's ``lora_adapter_metadata``, PEFT in a file beside.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LowRank, Magnitude, Target
from diptych.adapters.file_facts import header_with_facts
from diptych.adapters.keymap import kernel_size, other_model_of
from diptych.adapters.kohya_header import read_header
from diptych.adapters.peft_config import PeftConfig, config_of, parse_config
from diptych.adapters.peft_names import COMPONENTS, Key, Part, module_of_encoder, parse_key
from diptych.adapters.soundness import shaped_down
from diptych.digest import canonical_bytes
from diptych.errors import AdapterInvalid, ConversionUnsupported
from diptych.storage.tensor_header import Refuse, parse_json

__all__ = ["METADATA_KEY", "read_peft", "write_diffusers", "write_peft"]

_NOT_TOLD: Final = "does not tell whose module it means"
METADATA_KEY: Final = "lora_adapter_metadata"
_MODEL_CLASSES: Final = {
    Component.UNET: ("UNet2DConditionModel", "diffusers.models.unets.unet_2d_condition"),
    Component.REFINER_UNET: ("UNet2DConditionModel", "diffusers.models.unets.unet_2d_condition"),
    Component.TEXT_ENCODER: ("CLIPTextModel", "transformers.models.clip.modeling_clip"),
    Component.TEXT_ENCODER_2: (
        "CLIPTextModelWithProjection",
        "transformers.models.clip.modeling_clip",
    ),
}
_OF_UNET: Final = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
_OF_ENCODER: Final = (
    "lora_linear_layer.down.weight",
    "lora_linear_layer.up.weight",
    # transformers 5 finds no vector under the name without ``weight``, and says so in its log only.
    "lora_magnitude_vector.weight",
)
_COMPONENT_OF_CLASS: Final = {
    "UNet2DConditionModel": Component.UNET,
    "CLIPTextModel": Component.TEXT_ENCODER,
    "CLIPTextModelWithProjection": Component.TEXT_ENCODER_2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    """A file's tensors by target and part, and the keys that mean nothing here."""

    modules: dict[Target, dict[Part, Tensor]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def read_peft(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    source: str,
    config: Mapping[str, object] | None = None,
    component: Component | None = None,
) -> Adapter:
    """Return the adapter in a file's tensors and header.

    Args:
        tensors: All of the file's.
        metadata: The header's texts.
        source: What errors call the file.
        config: The ``adapter_config.json`` beside it, for a file of PEFT's own.
        component: Whose modules are meant where the keys do not tell.

    Raises:
        AdapterInvalid: Keys are unknown (the first few are named), a pair is not whole, or the
            configuration asks for what is not a low-rank update.
    """
    refuse = partial(AdapterInvalid, source)
    configs = _configs(metadata, config, refuse)
    if component is None and config is not None:
        component = _component_of(config)
    found = _sort(tensors, component, refuse)
    if found.unknown:
        if model := other_model_of(found.unknown[0]):
            raise refuse(f"key {found.unknown[0]!r} is of {model}; only SDXL's kind is read")
        more = f" and {len(found.unknown) - 3} more" if len(found.unknown) > 3 else ""
        raise refuse(f"has unknown keys {', '.join(map(repr, found.unknown[:3]))}{more}")
    texts = {key: text for key, text in metadata.items() if key != METADATA_KEY}
    header = read_header(texts, source=source)
    targets = {
        target: _low_rank(target, parts, configs.get(target.component), refuse)
        for target, parts in found.modules.items()
    }
    return Adapter(
        targets=MappingProxyType(targets),
        made_for=header.made_for,
        trigger_words=header.trigger_words,
        metadata=header.metadata,
    )


def write_diffusers(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and header of the file that diffusers' ``load_lora_weights`` reads.

    Learned tokens are not part of it. Raises as ``write_peft`` does, and for factors of their own
    for a refiner's UNet, since a pipeline has one UNet.
    """
    tensors: dict[str, Tensor] = {}
    configs: dict[str, object] = {}
    for component, low_ranks in _by_component(adapter).items():
        if component not in COMPONENTS.values():
            content = "factors of their own for a refiner's UNet"
            raise ConversionUnsupported(target_format="diffusers", content=content)
        _check_dora(component, low_ranks, "diffusers")
        spelling = _OF_UNET if component is Component.UNET else _OF_ENCODER
        for module, low_rank in low_ranks.items():
            tensors |= _written(f"{component}.{module}", low_rank, spelling)
        # Without the level that only some versions of transformers have: it need not be there.
        names = {module.removeprefix("text_model."): own for module, own in low_ranks.items()}
        configs |= {f"{component}.{name}": value for name, value in config_of(names).items()}
    texts = {"format": "pt", METADATA_KEY: canonical_bytes(configs).decode()}
    return tensors, header_with_facts(adapter, texts, target_format="diffusers")


def write_peft(
    adapter: Adapter,
) -> dict[Component, tuple[dict[str, Tensor], dict[str, str], bytes]]:
    """Return tensors, header and adapter_config.json of a PEFT folder per component.

    CLIPTextModel's modules are named as transformers 5 has them, without ``text_model``.

    Raises:
        ConversionUnsupported: It has learned tokens, or DoRA's norms per input or on some
            targets of a component only.
    """
    if adapter.tokens:
        raise ConversionUnsupported(target_format="peft", content="learned tokens")
    folders = {}
    for component, low_ranks in _by_component(adapter).items():
        _check_dora(component, low_ranks, "peft")
        level = "text_model." if component is Component.TEXT_ENCODER else ""
        named = {module.removeprefix(level): own for module, own in low_ranks.items()}
        tensors: dict[str, Tensor] = {}
        for module, low_rank in named.items():
            tensors |= _written(f"base_model.model.{module}", low_rank, _OF_UNET)
        model_class, library = _MODEL_CLASSES[component]
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": None,
            "auto_mapping": {"base_model_class": model_class, "parent_library": library},
            "inference_mode": True,
            "bias": "none",
            **config_of(named),
        }
        texts = header_with_facts(adapter, {"format": "pt"}, target_format="peft")
        folders[component] = (tensors, texts, json.dumps(config, indent=2, sort_keys=True).encode())
    return folders


def _configs(
    metadata: Mapping[str, str], config: Mapping[str, object] | None, refuse: Refuse
) -> dict[Component, PeftConfig]:
    if config is not None:
        parsed = parse_config(config, refuse)
        return dict.fromkeys(Component, parsed)
    if METADATA_KEY not in metadata:
        return {}
    values = parse_json(metadata[METADATA_KEY], refuse)
    found: dict[Component, PeftConfig] = {}
    for prefix, component in COMPONENTS.items():
        own = {
            key.removeprefix(f"{prefix}."): value
            for key, value in values.items()
            if key.startswith(f"{prefix}.")
        }
        if own:
            found[component] = parse_config(own, refuse)
    return found


def _component_of(config: Mapping[str, object]) -> Component | None:
    mapping = config.get("auto_mapping")
    model_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return _COMPONENT_OF_CLASS.get(model_class) if isinstance(model_class, str) else None


def _sort(tensors: Mapping[str, Tensor], component: Component | None, refuse: Refuse) -> _Sorted:
    found = _Sorted()
    for name, tensor in tensors.items():
        key = parse_key(name)
        if key is None:
            found.unknown.append(name)
            continue
        target = _target(name, key, component, refuse)
        parts = found.modules.setdefault(target, {})
        if key.part in parts:
            raise refuse(f"key {name!r} is there under another name too")
        parts[key.part] = tensor
    return found


def _target(name: str, key: Key, component: Component | None, refuse: Refuse) -> Target:
    if component is Component.REFINER_UNET and key.component is Component.UNET:
        return Target(component=component, module=key.module)
    owner = key.component or component
    if owner is None:
        model = other_model_of(name.removeprefix("base_model.model."))
        kind = f"is of {model}; only SDXL's kind is read" if model else _NOT_TOLD
        raise refuse(f"key {name!r} {kind}")
    module = key.module if owner is Component.UNET else module_of_encoder(key.module)
    return Target(component=owner, module=module)


def _low_rank(
    target: Target, parts: Mapping[Part, Tensor], config: PeftConfig | None, refuse: Refuse
) -> LowRank:
    name = f"{target.component}.{target.module}"
    for part in ("down", "up"):
        if part not in parts:
            raise refuse(f"{name} has no {'lora_A' if part == 'down' else 'lora_B'}")
    is_unet = target.component in {Component.UNET, Component.REFINER_UNET}
    kernel = kernel_size(target.module) if is_unet else None
    down, up = parts["down"], parts["up"]
    down = shaped_down(down, kernel, lambda problem: refuse(f"{name} {problem}"))
    rank = down.shape[0] if down.ndim else 0
    if "alpha" in parts:
        if parts["alpha"].numel() != 1:
            raise refuse(f"{name} has alpha of shape {list(parts['alpha'].shape)}, expected one")
        alpha = float(parts["alpha"].item())
    else:
        alpha = float(rank) if config is None else config.alpha_of(target.module, rank)
    norms = parts.get("magnitude")
    return LowRank(
        down=down,
        up=up.flatten(1) if up.shape[2:] == (1, 1) else up,
        alpha=alpha,
        magnitude=None if norms is None else Magnitude(norms=norms.flatten(), per_input=False),
    )


def _by_component(adapter: Adapter) -> dict[Component, dict[str, LowRank]]:
    found: dict[Component, dict[str, LowRank]] = {}
    for target, low_rank in sorted(adapter.targets.items(), key=lambda item: item[0]):
        found.setdefault(target.component, {})[target.module] = low_rank
    return found


def _check_dora(component: Component, low_ranks: Mapping[str, LowRank], target_format: str) -> None:
    magnitudes = [low_rank.magnitude for low_rank in low_ranks.values()]
    content = None
    if any(magnitude is not None and magnitude.per_input for magnitude in magnitudes):
        content = f"DoRA norms per input (dora_scale) of {component}"
    elif len({magnitude is None for magnitude in magnitudes}) > 1:
        content = f"DoRA on some targets of {component} and not on others"
    if content is not None:
        raise ConversionUnsupported(target_format=target_format, content=content)


def _written(prefix: str, low_rank: LowRank, spelling: tuple[str, str, str]) -> dict[str, Tensor]:
    down, up, magnitude = spelling
    ones = (1,) * (low_rank.down.ndim - 2)
    written = {
        f"{prefix}.{down}": low_rank.down,
        f"{prefix}.{up}": low_rank.up.reshape(*low_rank.up.shape, *ones),
    }
    if low_rank.magnitude is not None:
        norms = low_rank.magnitude.norms
        shape = (1, -1, *ones) if ones else (-1,)
        written[f"{prefix}.{magnitude}"] = norms.reshape(shape)
    return written

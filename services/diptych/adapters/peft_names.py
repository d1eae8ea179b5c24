"""Keys of diffusers' and PEFT's files, and the module and part that each of them means.

Three spellings of a pair are read: PEFT's ``<module>.lora_A.weight`` and ``lora_B``, diffusers'
``<module>.lora.down.weight`` and ``up`` (text encoders: ``lora_linear_layer``), and the first
one, ``<attention>.processor.to_q_lora.down.weight``, whose ``to_out_lora`` means ``to_out.0`` and
which says ``to_q`` in text encoders too, where the module is ``q_proj``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from diptych.adapters.adapter import Component

__all__ = ["COMPONENTS", "Key", "Part", "is_peft", "module_of_encoder", "parse_key"]

Part = Literal["down", "up", "alpha", "magnitude"]
COMPONENTS: Final = {
    "unet": Component.UNET,
    "text_encoder": Component.TEXT_ENCODER,
    "text_encoder_2": Component.TEXT_ENCODER_2,
}
"""By the first part of a key in a file of a whole pipeline."""
_PARTS: Final[dict[str, Part]] = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "alpha": "alpha",
}
_FIRST_SPELLING: Final = re.compile(
    r"(?P<attention>.+)\.to_(?P<name>q|k|v|out)_lora\.(?P<part>down|up)\.weight"
)
_UNET_ROOTS: Final = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in.", "conv_out.")
_UNET_ROOTS_OF_TIME: Final = ("time_embedding.", "add_embedding.")
_OF_PEFT_MODEL: Final = "base_model.model."
_FLAT_ENCODER_ROOTS: Final = ("encoder.", "embeddings.", "final_layer_norm.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What one key means."""

    component: Component | None
    """None where the key does not tell."""
    module: str
    part: Part


def is_peft(keys: Iterable[str]) -> bool:
    """Return whether some of ``keys`` mean one of a pair in these spellings."""
    parsed = map(parse_key, keys)
    return any(key is not None and key.part in {"down", "up"} for key in parsed)


def parse_key(key: str) -> Key | None:
    """Return what ``key`` means, or None if it means nothing here."""
    named, rest = _component_of(key.removeprefix(_OF_PEFT_MODEL))
    rest = rest.replace(".processor.", ".")
    if match := _FIRST_SPELLING.fullmatch(rest):
        name = match["name"]
        if rest.startswith(("text_model.", *_FLAT_ENCODER_ROOTS)):
            last = f"{name}_proj"
        else:
            last = "to_out.0" if name == "out" else f"to_{name}"
        part: Part = "down" if match["part"] == "down" else "up"
        return _key(named, f"{match['attention']}.{last}", part)
    for end, part in _PARTS.items():
        module = rest.removesuffix(f".{end}")
        if module != rest:
            return _key(named, module, part)
    return None


def module_of_encoder(module: str) -> str:
    """Return a text encoder's module as it is named here, under ``text_model``.

    Recent transformers have no such level in CLIPTextModel, and PEFT names what it finds.
    """
    return f"text_model.{module}" if module.startswith(_FLAT_ENCODER_ROOTS) else module


def _component_of(key: str) -> tuple[Component | None, str]:
    first, _, rest = key.partition(".")
    if first in COMPONENTS:
        return COMPONENTS[first], rest
    if key.startswith((*_UNET_ROOTS, *_UNET_ROOTS_OF_TIME)):
        return Component.UNET, key
    return None, key


def _key(component: Component | None, module: str, part: Part) -> Key:
    if component is not Component.UNET:
        module = module_of_encoder(module)
    elif module.endswith(".to_out"):  # diffusers' first DoRA files
        module = f"{module}.0"
    return Key(component=component, module=module, part=part)

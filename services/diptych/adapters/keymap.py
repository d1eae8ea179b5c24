"""Names of modules as kohya-style files spell them, and as diffusers and transformers do.

Such a file joins a module's path by underscores behind a prefix: ``lora_unet_``, ``lora_te1_``
(CLIP-L), ``lora_te2_`` (OpenCLIP-G). The UNet's path is diffusers' or that of SDXL's first code,
"sgm", whose blocks are numbered in one row: with n layers per block, input block 0 is ``conv_in``
and then come n layers and a downsampler per level; output blocks are n + 1 layers per level, the
last of which also upsamples. Paths joined by dots, as ComfyUI writes them, are read too.

Only modules with a weight that a low-rank update can change are known here: convolutions and
linear layers of UNets like SDXL's, of any width and number of levels, and of its text encoders.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from diptych.adapters.adapter import Component, Target

__all__ = [
    "NANO_LAYOUT",
    "REFINER_LAYOUT",
    "SDXL_LAYOUT",
    "BlockLayout",
    "Style",
    "find_layout",
    "is_kohya_name",
    "kernel_size",
    "name_of",
    "other_model_of",
    "reads_like_refiner",
    "target_of",
]

Style = Literal["diffusers", "sgm"]
"""How a UNet's blocks are spelled; text encoders have one spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayout:
    """What sgm's numbers depend on."""

    layers_per_block: int
    plain_up_blocks: frozenset[int] = frozenset()
    """Up blocks without attention; their upsampler is the second part of its output block."""


SDXL_LAYOUT: Final = BlockLayout(layers_per_block=2)
"""SDXL's base and all that is cut from it: SSD-1B, Vega, Playground."""
REFINER_LAYOUT: Final = BlockLayout(layers_per_block=2, plain_up_blocks=frozenset({0}))
"""SDXL's refiner: 384 channels, four levels, attention in the two middle ones."""
NANO_LAYOUT: Final = BlockLayout(layers_per_block=1)

_PREFIXES: Final[tuple[tuple[str, Component | None], ...]] = (
    ("lora_unet_", Component.UNET),
    ("lora_te1_", Component.TEXT_ENCODER),
    ("lora_te2_", Component.TEXT_ENCODER_2),
    ("lora_te_", None),
    ("lycoris_", Component.UNET),
    ("diffusion_model.", Component.UNET),
    ("text_encoders.clip_l.transformer.", Component.TEXT_ENCODER),
    ("text_encoders.clip_g.transformer.", Component.TEXT_ENCODER_2),
)
"""Prefixes that are read; None is the only text encoder there is."""
_WRITTEN_PREFIXES: Final = {
    Component.UNET: "lora_unet_",
    Component.TEXT_ENCODER: "lora_te1_",
    Component.TEXT_ENCODER_2: "lora_te2_",
}
_BARE_SGM: Final = re.compile(
    r"(?:input_blocks|output_blocks|middle_block|time_embed|label_emb)\.|out\.2$"
)
"""Beginnings of sgm names without any prefix, as OneTrainer's "original" format has them."""

_SINGLES: Final = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET: Final = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TRANSFORMER: Final = (
    *(f"attn{i}.to_{part}" for i in (1, 2) for part in ("q", "k", "v", "out.0")),
    *("ff.net.0.proj", "ff.net.2"),
)
_ENCODER_LAYER: Final = (
    *(f"self_attn.{part}_proj" for part in "qkv"),
    *("self_attn.out_proj", "mlp.fc1", "mlp.fc2"),
)


def _flat(path: str) -> str:
    return path.replace(".", "_")


_FLAT_SINGLES: Final = {_flat(name): name for name in _SINGLES}
_FLAT_SGM_SINGLES: Final = {_flat(sgm): name for name, sgm in _SINGLES.items()}
_FLAT_RESNET: Final = {_flat(name): name for name in _RESNET}
_FLAT_SGM_RESNET: Final = {_flat(sgm): name for name, sgm in _RESNET.items()}
_FLAT_TRANSFORMER: Final = {_flat(name): name for name in _TRANSFORMER}
_FLAT_ENCODER_LAYER: Final = {_flat(name): name for name in _ENCODER_LAYER}

_N: Final = r"(0|[1-9][0-9]?)"
_LAYER: Final = re.compile(rf"(?:(down|up)_blocks_{_N}|(mid)_block)_(resnets|attentions)_{_N}_(.+)")
_SAMPLER: Final = re.compile(rf"(?:down_blocks_{_N}_down|up_blocks_{_N}_up)samplers_0_conv")
_DEPTH: Final = re.compile(rf"transformer_blocks_{_N}_(.+)")
_ENCODER: Final = re.compile(rf"(?:text_model_)?encoder_layers_{_N}_(.+)")
_SGM_ROW: Final = re.compile(rf"(in|out)put_blocks_{_N}_([012])_(.+)")
_SGM_MIDDLE: Final = re.compile(r"middle_block_([012])_(.+)")

_DOTTED_LAYER: Final = re.compile(
    rf"(?:(down|up)_blocks\.{_N}|mid_block)\.(resnets|attentions)\.{_N}\.(.+)"
)
_DOTTED_SAMPLER: Final = re.compile(rf"(down|up)_blocks\.{_N}\.(?:down|up)samplers\.0\.conv")

_OTHER_MODELS: Final = {
    r"(lora_)?transformer[._]|(lora_unet_|diffusion_model\.)?(double|single)_blocks[._]": (
        "a transformer such as Flux"
    ),
    r"(lora_unet_|diffusion_model\.)?joint_blocks[._]": "Stable Diffusion 3",
    r"(lora_te3|text_encoder_3|text_encoders\.t5xxl)[._]": "a third text encoder",
}
"""Beginnings of names in files for models that are not served, as patterns."""

_REFINER_ONLY: Final = re.compile(
    r"(?:down|up)_blocks\.3\.|up_blocks\.2\.(?:attentions|upsamplers)\.|down_blocks\.2\.downsamplers\."
)
_NEVER_REFINER: Final = re.compile(r"(?:down_blocks\.[03]|up_blocks\.[03])\.attentions\.")
_MOST_LAYERS: Final = 4


def is_kohya_name(name: str) -> bool:
    """Return whether a module is named by a prefix or in a spelling that is read here."""
    return name.startswith(tuple(prefix for prefix, _ in _PREFIXES)) or bool(_BARE_SGM.match(name))


def target_of(
    name: str,
    *,
    layout: BlockLayout = SDXL_LAYOUT,
    sole_encoder: Component = Component.TEXT_ENCODER,
) -> Target | None:
    """Return the module that a file's ``name`` means, or None if it means none.

    Args:
        name: What stands before ``.lora_down.weight``, such as ``lora_unet_mid_block_...``.
        layout: What sgm's block numbers are counted by; diffusers' spelling needs none.
        sole_encoder: Who ``lora_te_`` is, which models of one text encoder have.
    """
    component, path = _split(name, sole_encoder)
    if component is None:
        return None
    flat = _flat(path)
    module = _unet_module(flat, layout) if component is Component.UNET else _encoder_module(flat)
    if module is None or (module == "text_projection" and component is Component.TEXT_ENCODER):
        return None
    return Target(component=component, module=module)


def name_of(
    target: Target, *, style: Style = "diffusers", layout: BlockLayout = SDXL_LAYOUT
) -> str | None:
    """Return how a kohya-style file calls ``target``, or None if it has no name for it.

    ``target_of`` returns the same target for that name and ``layout``.
    """
    prefix = _WRITTEN_PREFIXES.get(target.component)
    if prefix is None:
        return None
    spelled: str | None = target.module
    if style == "sgm" and target.component is Component.UNET:
        spelled = _to_sgm(target.module, layout)
    if spelled is None:
        return None
    name = f"{prefix}{_flat(spelled)}"
    return name if target_of(name, layout=layout) == target else None


def other_model_of(name: str) -> str | None:
    """Return what other model a file's key or module is of, None where that cannot be told."""
    return next((model for start, model in _OTHER_MODELS.items() if re.match(start, name)), None)


def kernel_size(module: str) -> int | None:
    """Return the side of a UNet convolution's kernel, None for a linear layer."""
    last = module.rpartition(".")[2]
    if last == "conv_shortcut":
        return 1
    return 3 if last in {"conv_in", "conv_out", "conv1", "conv2", "conv"} else None


def reads_like_refiner(modules: Iterable[str]) -> bool:
    """Return whether modules of a UNet are some that SDXL's refiner has and its base has not."""
    modules = list(modules)
    return any(map(_REFINER_ONLY.match, modules)) and not any(map(_NEVER_REFINER.match, modules))


def find_layout(names: Iterable[str]) -> BlockLayout | None:
    """Return the layout that the block numbers of sgm ``names`` can be counted by.

    A downsampler, or a layer where SDXL has one, tells; SDXL's own is tried first, so names that
    fit several layouts are taken for SDXL's. None if no layout fits all of them.
    """
    rows = [match for name in names if (match := _SGM_ROW.search(_flat(name)))]
    for num_layers in sorted(range(1, _MOST_LAYERS + 1), key=lambda n: n != 2):
        layout = BlockLayout(layers_per_block=num_layers)
        if all(_from_sgm_row(match, layout) for match in rows):
            return layout
    return None


def _split(name: str, sole_encoder: Component) -> tuple[Component | None, str]:
    for prefix, component in _PREFIXES:
        if name.startswith(prefix):
            return component or sole_encoder, name.removeprefix(prefix)
    return (Component.UNET if _BARE_SGM.match(name) else None), name


def _encoder_module(flat: str) -> str | None:
    if flat == "text_projection":
        return flat
    match = _ENCODER.fullmatch(flat)
    leaf = _FLAT_ENCODER_LAYER.get(match[2]) if match else None
    return f"text_model.encoder.layers.{match[1]}.{leaf}" if match and leaf else None


def _unet_module(flat: str, layout: BlockLayout) -> str | None:
    single = _FLAT_SINGLES.get(flat) or _FLAT_SGM_SINGLES.get(flat)
    if single:
        return single
    if match := _LAYER.fullmatch(flat):
        direction, block, _, kind, layer, tail = match.groups()
        leaf = _FLAT_RESNET.get(tail) if kind == "resnets" else _attention(tail)
        where = f"{direction}_blocks.{block}" if direction else "mid_block"
        return f"{where}.{kind}.{layer}.{leaf}" if leaf else None
    if match := _SAMPLER.fullmatch(flat):
        down, up = match.groups()
        return _sampler("up", int(up)) if down is None else _sampler("down", int(down))
    if match := _SGM_ROW.fullmatch(flat):
        return _from_sgm_row(match, layout)
    if match := _SGM_MIDDLE.fullmatch(flat):
        return _from_sgm_middle(int(match[1]), match[2])
    return None


def _attention(flat: str) -> str | None:
    if flat in {"proj_in", "proj_out"}:
        return flat
    match = _DEPTH.fullmatch(flat)
    leaf = _FLAT_TRANSFORMER.get(match[2]) if match else None
    return f"transformer_blocks.{match[1]}.{leaf}" if match and leaf else None


def _sampler(direction: str, block: int) -> str:
    return f"{direction}_blocks.{block}.{direction}samplers.0.conv"


def _from_sgm_row(match: re.Match[str], layout: BlockLayout) -> str | None:
    """Return the module that a match of ``_SGM_ROW`` means, if its number fits ``layout``."""
    side, number, part, tail = match[1], int(match[2]), int(match[3]), match[4]
    stride = layout.layers_per_block + 1
    is_down = side == "in"
    block, layer = divmod(number - is_down, stride)
    is_last = layer == layout.layers_per_block
    if (is_down and number == 0) or (is_down and is_last) != (is_down and tail == "op"):
        return None
    direction = "down" if is_down else "up"
    if tail == ("op" if is_down else "conv"):
        fits = part == 0 if is_down else part > 0 and is_last
        return _sampler(direction, block) if fits else None
    leaf = (_FLAT_SGM_RESNET.get(tail), _attention(tail), None)[part]
    kind = ("resnets", "attentions")[part != 0]
    return f"{direction}_blocks.{block}.{kind}.{layer}.{leaf}" if leaf else None


def _from_sgm_middle(part: int, tail: str) -> str | None:
    if part == 1:
        leaf = _attention(tail)
        return f"mid_block.attentions.0.{leaf}" if leaf else None
    leaf = _FLAT_SGM_RESNET.get(tail)
    return f"mid_block.resnets.{part // 2}.{leaf}" if leaf else None


def _to_sgm(module: str, layout: BlockLayout) -> str | None:
    if module in _SINGLES:
        return _SINGLES[module]
    stride = layout.layers_per_block + 1
    if match := _DOTTED_SAMPLER.fullmatch(module):
        block = int(match[2])
        if match[1] == "down":
            return f"input_blocks.{(block + 1) * stride}.0.op"
        part = 1 if block in layout.plain_up_blocks else 2
        return f"output_blocks.{(block + 1) * stride - 1}.{part}.conv"
    match = _DOTTED_LAYER.fullmatch(module)
    if match is None:
        return None
    direction, block_text, kind, layer, tail = match.groups()
    leaf = _RESNET.get(tail) if kind == "resnets" else tail
    if direction is None:
        part = 1 if kind == "attentions" else 2 * int(layer)
        return f"middle_block.{part}.{leaf}"
    number = int(block_text) * stride + int(layer)
    row = f"input_blocks.{number + 1}" if direction == "down" else f"output_blocks.{number}"
    return f"{row}.{int(kind == 'attentions')}.{leaf}"

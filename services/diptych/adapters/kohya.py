"""Adapters in the files of kohya's trainer and of all that took its form.

Read: sd-scripts, webui, ComfyUI, OneTrainer, LyCORIS' LoCon, diffusers' own exporter. A module has
``lora_down.weight`` and ``lora_up.weight``, ``alpha`` (missing: the rank, so scale 1), for some
convolutions ``lora_mid.weight`` between them, and for DoRA ``dora_scale``. Which side a
``dora_scale`` was taken over is told by its shape alone: [out, 1, ...] (LyCORIS) has one norm per
output, [1, in, ...] (OneTrainer) one per input; a flat [out] is PEFT's vector under kohya's name.
Learned tokens lie beside them as ``bundle_emb.<token>.clip_l`` and ``.clip_g``.

Everything else such a file may hold (LoHa, LoKr, IA3, OFT, norms, biases) is refused by name.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    Magnitude,
    Stage,
    Target,
)
from diptych.adapters.keymap import (
    SDXL_LAYOUT,
    BlockLayout,
    Style,
    find_layout,
    is_kohya_name,
    kernel_size,
    name_of,
    other_model_of,
    reads_like_refiner,
    target_of,
)
from diptych.adapters.kohya_header import KohyaHeader, layout_of, read_header, write_header
from diptych.adapters.soundness import check_shapes, shaped_down
from diptych.errors import AdapterInvalid, ConversionUnsupported
from diptych.storage.tensor_header import Refuse

__all__ = ["is_kohya", "is_kohya_key", "read_kohya", "write_kohya"]

_FORMAT: Final = "kohya"
_PARTS: Final = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "scalar": "scalar",
    "dora_scale": "dora_scale",
    "lora_magnitude_vector": "rows",
    "lora_magnitude_vector.weight": "rows",
}
"""Ends of keys. LyCORIS trains ``scalar``, another factor of the update, in some files."""
_FOREIGN: Final = {
    r"hada_\w+": "LoHa factors",
    r"lokr_\w+": "LoKr factors",
    r"[ab][12]\.weight": "GLoRA factors",
    r"on_input": "the side of an IA3 scale",
    r"b?oft_\w+": "an OFT rotation",
    r"[wb]_norm": "what a norm became",
    r"diff": "a whole weight",
    r"diff_b|(lora_(up|down)\.)?bias(_\w+)?": "a bias",
}
"""Ends of keys that mean something else than a pair, as patterns."""
_BUNDLED: Final = "bundle_emb."
_ENCODERS: Final = {"clip_l": Component.TEXT_ENCODER, "clip_g": Component.TEXT_ENCODER_2}
_SAVED: Final = {component: name for name, component in _ENCODERS.items()}

_Parts = dict[str, Tensor]


def is_kohya_key(key: str) -> bool:
    """Return whether ``key`` is one of this form, be its content read or refused."""
    return key.startswith(_BUNDLED) or is_kohya_name(_split(key)[0])


def is_kohya(keys: Iterable[str]) -> bool:
    """Return whether ``keys`` are those of a file of this form: some key is one of it."""
    return any(map(is_kohya_key, keys))


def read_kohya(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    source: str,
    layout: BlockLayout | None = None,
) -> Adapter:
    """Return the adapter in a file's tensors and header.

    Args:
        tensors: All of the file's, of any floating dtype; alphas may be integers.
        metadata: The header's texts.
        source: What errors call the file.
        layout: What sgm's block numbers are counted by, where the caller knows; else the header
            tells, or the numbers do, or they are SDXL's.

    Raises:
        AdapterInvalid: A key is unknown or holds what no low-rank update is, two keys mean one
            module, a pair is not whole, or shapes do not go together; the key is named.
    """
    refuse = partial(AdapterInvalid, source)
    header = read_header(metadata, source=source)
    modules, tokens = _sorted_out(tensors, refuse)
    layout = layout or header.layout or find_layout(modules) or SDXL_LAYOUT
    is_refiner = _is_of_refiner(modules, layout, header)
    made_for = replace(header.made_for, stage=Stage.REFINER) if is_refiner else header.made_for
    sole_encoder = Component.TEXT_ENCODER_2 if is_refiner else Component.TEXT_ENCODER
    read_name = partial(target_of, layout=layout, sole_encoder=sole_encoder)
    targets = _targets(modules, read_name, refuse)
    adapter = Adapter(
        targets=MappingProxyType(targets),
        tokens=MappingProxyType(tokens),
        made_for=made_for,
        trigger_words=header.trigger_words,
        metadata=header.metadata,
    )
    return check_shapes(adapter, source)


def write_kohya(
    adapter: Adapter, *, style: Style, layout: BlockLayout | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and header of a file of ``adapter``; ``read_kohya`` gives it back.

    Args:
        adapter: Its factors keep their dtype.
        style: How the UNet's blocks are spelled: "sgm" as kohya's trainer does for SDXL.
        layout: What sgm's blocks are numbered by; else that of the family it was made for, and
            SDXL's where that is not known.

    Raises:
        ConversionUnsupported: It has factors of its own for a refiner, a module that this form
            has no name for, or a token whose text has a dot.
    """
    modules = [target.module for target in adapter.targets if target.component is Component.UNET]
    layout = layout or layout_of(adapter.made_for.family, is_refiner=reads_like_refiner(modules))
    has_alphas = not _go_without_alphas(adapter.targets.values())
    tensors: dict[str, Tensor] = {}
    for target, low_rank in sorted(adapter.targets.items(), key=lambda item: item[0]):
        name = name_of(target, style=style, layout=layout)
        if name is None:
            content = f"target {target.component}.{target.module}"
            raise ConversionUnsupported(target_format=_FORMAT, content=content)
        tensors |= {f"{name}.{part}": value for part, value in _written(low_rank).items()}
        if has_alphas:
            tensors[f"{name}.alpha"] = _exactly(low_rank.alpha)
    for text, token in sorted(adapter.tokens.items()):
        if "." in text:
            content = f"token {text!r}, which has a dot"
            raise ConversionUnsupported(target_format=_FORMAT, content=content)
        for component, vectors in token.vectors.items():
            tensors[f"{_BUNDLED}{text}.{_SAVED[component]}"] = vectors.contiguous()
    return tensors, write_header(adapter, layout)


def _split(key: str) -> tuple[str, str | None]:
    """Return the module's name in ``key`` and which part of it the tensor is, None if unknown."""
    for end, part in _PARTS.items():
        if key.endswith(f".{end}"):
            return key.removesuffix(f".{end}"), part
    return key, None


def _sorted_out(
    tensors: Mapping[str, Tensor], refuse: Refuse
) -> tuple[dict[str, _Parts], dict[str, LearnedToken]]:
    """Return parts by the name of their module, and tokens by their text."""
    modules: dict[str, _Parts] = {}
    tokens: dict[str, dict[Component, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(_BUNDLED):
            text, component = _token_of(key, refuse)
            vectors = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
            tokens.setdefault(text, {})[component] = vectors
            continue
        name, part = _split(key)
        if part is None:
            raise refuse(_why_unknown(key))
        parts = modules.setdefault(name, {})
        if part in parts:
            raise refuse(f"key {key!r} is there under another name too")
        parts[part] = tensor
    learned = {
        text: LearnedToken(vectors=MappingProxyType(vectors)) for text, vectors in tokens.items()
    }
    return modules, learned


def _token_of(key: str, refuse: Refuse) -> tuple[str, Component]:
    text, _, encoder = key.removeprefix(_BUNDLED).partition(".")
    if encoder not in _ENCODERS:
        raise refuse(f"key {key!r} is no vector of a token for clip_l or clip_g")
    return text, _ENCODERS[encoder]


def _why_unknown(key: str) -> str:
    for end, content in _FOREIGN.items():
        if re.search(rf"\.(?:{end})$", key):
            return f"key {key!r} holds {content}; only low-rank pairs are read"
    return f"key {key!r} is unknown"


def _is_of_refiner(modules: Mapping[str, _Parts], layout: BlockLayout, header: KohyaHeader) -> bool:
    """Return whether a file is a refiner's: it says so or, not being ours, it reads like one."""
    if header.is_exact or header.made_for.stage is Stage.REFINER:
        return header.made_for.stage is Stage.REFINER
    found = [target_of(name, layout=layout) for name in modules]
    return reads_like_refiner(target.module for target in found if target and _is_unet(target))


def _targets(
    modules: Mapping[str, _Parts], read_name: Callable[[str], Target | None], refuse: Refuse
) -> dict[Target, LowRank]:
    targets: dict[Target, LowRank] = {}
    for name, parts in modules.items():
        target = read_name(name)
        if target is None:
            model = other_model_of(name)
            kind = f", but of {model}" if model else ""
            raise refuse(f"{name!r} is no module of an SDXL UNet or of its text encoders{kind}")
        if target in targets:
            raise refuse(f"{name!r} is a second name for {target.component}.{target.module}")
        kernel = kernel_size(target.module) if _is_unet(target) else None
        targets[target] = _low_rank(parts, kernel, _about(name, refuse))
    return targets


def _about(name: str, refuse: Refuse) -> Refuse:
    return lambda problem: refuse(f"{name} {problem}")


def _is_unet(target: Target) -> bool:
    return target.component is Component.UNET


def _low_rank(parts: _Parts, kernel: int | None, refuse: Refuse) -> LowRank:
    for end in ("down", "up"):
        if end not in parts:
            raise refuse(f"has no lora_{end}.weight")
        if not parts[end].ndim:
            raise refuse(f"has lora_{end} that is one number, expected a matrix")
    down = _down(parts["down"], parts.get("mid"), kernel, refuse)
    up = parts["up"].flatten(1) if parts["up"].ndim > 1 else parts["up"]
    low_rank = LowRank(
        down=down,
        up=up,
        alpha=_number(parts, "alpha", float(down.shape[0]), refuse)
        * _number(parts, "scalar", 1.0, refuse),
        magnitude=None,
    )
    if "rows" in parts or "dora_scale" in parts:
        return replace(low_rank, magnitude=_magnitude(parts, low_rank, refuse))
    return low_rank


def _number(parts: _Parts, part: str, default: float, refuse: Refuse) -> float:
    if part not in parts:
        return default
    if parts[part].numel() != 1:
        raise refuse(f"has {part} of shape {list(parts[part].shape)}, expected one number")
    return float(parts[part].item())


def _down(down: Tensor, mid: Tensor | None, kernel: int | None, refuse: Refuse) -> Tensor:
    """Return ``lora_down`` [r, in] of a linear layer, [r, in, k, k] of a convolution.

    The middle of a Tucker decomposition [r, r, k, k] is multiplied into it in float64.
    """
    if mid is not None:
        if mid.ndim != 4 or mid.shape[1] != down.shape[0] or math.prod(down.shape[2:]) != 1:
            shapes = f"lora_down {list(down.shape)} and lora_mid {list(mid.shape)}"
            raise refuse(f"has {shapes}, which cannot be multiplied")
        folded = torch.einsum("mnhw,ni->mihw", mid.double(), down.flatten(1).double())
        down = folded.float()
    return shaped_down(down, kernel, refuse)


def _magnitude(parts: _Parts, low_rank: LowRank, refuse: Refuse) -> Magnitude:
    """Return DoRA's norms; ``dora_scale`` is spread over a weight [out, in, ...] by its shape."""
    if "rows" in parts and "dora_scale" in parts:
        raise refuse("has both dora_scale and lora_magnitude_vector")
    norms = parts.get("rows", parts.get("dora_scale"))
    assert norms is not None
    num_out, num_in = low_rank.weight_shape[:2]
    shape = list(norms.shape)
    long_axes = {axis for axis, size in enumerate(shape) if size > 1}
    if long_axes <= {0} and shape[:1] == [num_out]:
        return Magnitude(norms=norms.flatten(), per_input=False)
    if "rows" not in parts and long_axes <= {1} and shape[1:2] == [num_in]:
        return Magnitude(norms=norms.flatten(), per_input=True)
    raise refuse(f"has dora_scale {shape}, expected [{num_out}, 1] or [1, {num_in}]")


def _go_without_alphas(updates: Iterable[LowRank]) -> bool:
    """Return whether alphas are best left out: they are unlike, and each is the rank anyway.

    Every reader takes a missing alpha for the rank, while stock diffusers gives attention layers
    and text encoders the commonest alpha of all whatever their own is.
    """
    alphas = [(low_rank.alpha, low_rank.rank) for low_rank in updates]
    return len(set(alphas)) > 1 and all(alpha == rank for alpha, rank in alphas)


def _written(low_rank: LowRank) -> dict[str, Tensor]:
    """Return the tensors of one module but its alpha, by the end of their key."""
    num_ones = low_rank.down.ndim - 2
    up = low_rank.up.reshape(*low_rank.up.shape, *(1,) * num_ones)
    written = {
        "lora_down.weight": low_rank.down.contiguous(),
        "lora_up.weight": up.contiguous(),
    }
    if low_rank.magnitude is not None:
        norms = low_rank.magnitude.norms
        shape = (1, -1) if low_rank.magnitude.per_input else (-1, 1)
        written["dora_scale"] = norms.reshape(*shape, *(1,) * num_ones).contiguous()
    return written


def _exactly(value: float) -> Tensor:
    """Return ``value`` as one float32, as one float64 where float32 would change it."""
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)

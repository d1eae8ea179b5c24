"""One door for every file that an adapter is exported to.

Read again, the files give the same adapter; what a format has no word for is refused by name.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from diptych.adapters.adapter import Adapter
from diptych.adapters.bundle import to_bytes
from diptych.adapters.file_facts import header_with_facts
from diptych.adapters.keymap import Style
from diptych.adapters.kohya import write_kohya
from diptych.adapters.peft_format import write_diffusers, write_peft
from diptych.adapters.stages import has_refiner_factors, split_stages
from diptych.adapters.tensor_file import to_pieces
from diptych.adapters.token_format import write_tokens
from diptych.errors import ConversionUnsupported, FieldViolation, InvalidRequest

__all__ = ["FORMATS", "write_adapter"]

FORMATS: Final = ("bundle", "diffusers", "peft", "kohya")


def write_adapter(
    adapter: Adapter, target_format: str, *, style: Style = "sgm"
) -> dict[str, bytes]:
    """Return the files of ``adapter`` in a format, by their path in its folder.

    ``bundle`` and ``kohya`` are one file. ``diffusers`` is the file of ``load_lora_weights``, and
    one beside it if there are learned tokens. ``peft`` is a folder per component. Where the
    refiner has factors of its own, ``diffusers`` and ``kohya`` are folders ``base`` and
    ``refiner``, each for a pipeline of that expert.

    Args:
        adapter: What to write.
        target_format: One of ``FORMATS``.
        style: How a kohya file spells the UNet's blocks: ``sgm`` or ``diffusers``.

    Raises:
        InvalidRequest: There is no such format.
        ConversionUnsupported: The format has no word for something that the adapter holds.
    """
    match target_format:
        case "bundle":
            return {"adapter.safetensors": to_bytes(adapter)}
        case "kohya" | "diffusers" if has_refiner_factors(adapter):
            return _by_stage(adapter, target_format, style)
        case "kohya":
            tensors, texts = write_kohya(adapter, style=style)
            return {"adapter.safetensors": _file(tensors, texts)}
        case "diffusers":
            return _diffusers(adapter)
        case "peft":
            files: dict[str, bytes] = {}
            for component, (tensors, texts, config) in write_peft(adapter).items():
                files[f"{component}/adapter_config.json"] = config
                files[f"{component}/adapter_model.safetensors"] = _file(tensors, texts)
            return files
    description = f"{target_format[:80]!r} is not one of {', '.join(FORMATS)}"
    raise InvalidRequest([FieldViolation(field="format", description=description)])


def _by_stage(adapter: Adapter, target_format: str, style: Style) -> dict[str, bytes]:
    parts = split_stages(adapter)
    if parts is None:
        content = "factors of their own for a refiner's UNet and nothing for the base"
        raise ConversionUnsupported(target_format=target_format, content=content)
    return {
        f"{part.made_for.stage}/{name}": data
        for part in parts
        for name, data in write_adapter(part, target_format, style=style).items()
    }


def _diffusers(adapter: Adapter) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if adapter.targets:
        files["pytorch_lora_weights.safetensors"] = _file(*write_diffusers(adapter))
    if adapter.tokens:
        tensors, texts = write_tokens(adapter, target_format="diffusers")
        header = header_with_facts(adapter, texts, target_format="diffusers")
        files["tokens_emb.safetensors"] = _file(tensors, header)
    return files


def _file(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    return b"".join(to_pieces(tensors, texts))

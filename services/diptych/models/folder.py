"""A folder in diffusers' layout: model_index.json and one folder per part."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diptych.errors import CheckpointInvalid, PickleRefused
from diptych.models.header import parse_json, read_header
from diptych.models.parts import Checkpoint, Part, StoredTensor, TokenizerFiles
from diptych.storage.tensor_header import PICKLE_SUFFIXES

__all__ = ["STEMS", "open_folder", "open_part", "read_json"]

_MAX_JSON_BYTES = 32 * 2**20
_STEM = "diffusion_pytorch_model"
STEMS: Mapping[str, str] = {
    "unet": _STEM,
    "vae": _STEM,
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Files of weights by part, without what tells shards and precisions apart."""
_TOKENIZERS: Mapping[str, str] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_TOKENIZER_FILES = ("vocab.json", "merges.txt")


def open_folder(folder: Path, source: str) -> Checkpoint:
    """Return the checkpoint in ``folder``; reads configurations and headers, no weights.

    Raises:
        CheckpointInvalid: files are missing (all are named) or not what they should be.
        PickleRefused: a part's only weights are a pickle.
    """
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        _refuse_pickles(folder, source)
        raise CheckpointInvalid(source, "misses model_index.json of diffusers' layout")
    index = read_json(index_path, source)
    names = [name for name in STEMS if name != "text_encoder" or _is_listed(index, name)]
    _check_files(folder, source, names)
    return Checkpoint(
        source=source,
        pipeline=index,
        scheduler=read_json(folder / "scheduler/scheduler_config.json", source),
        parts={name: _open_part(folder / name, source, STEMS[name]) for name in names},
        tokenizers={
            name: TokenizerFiles(folder=folder / tokenizer)
            for name, tokenizer in _TOKENIZERS.items()
            if name in names
        },
        folder=folder,
    )


def open_part(folder: Path, source: str, *, name: str) -> Part:
    """Return the one diffusers model whose configuration and weights lie in ``folder`` itself.

    Raises:
        CheckpointInvalid: a file is missing or not what it should be.
        PickleRefused: its only weights are a pickle.
    """
    if _find_weights(folder, _STEM) is None:
        _refuse_pickles(folder, source)
        raise CheckpointInvalid(source, f"misses {_STEM}.safetensors of a {name}")
    if not (folder / "config.json").is_file():
        raise CheckpointInvalid(source, f"misses config.json of a {name}")
    return replace(_open_part(folder, source, _STEM), name=name)


def read_json(path: Path, source: str) -> dict[str, object]:
    """Return the JSON object in a small file.

    Raises:
        CheckpointInvalid: missing, too large or not a JSON object.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointInvalid(source, f"{name} exceeds {_MAX_JSON_BYTES} bytes")
        return parse_json(f"{source}, {name}", path.read_bytes())
    except OSError as error:
        raise CheckpointInvalid(source, f"{name} cannot be read: {error.strerror}") from error


def _is_listed(index: Mapping[str, object], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and all(isinstance(item, str) for item in entry)


def _check_files(folder: Path, source: str, names: list[str]) -> None:
    needed = ["scheduler/scheduler_config.json"]
    for name in names:
        needed.append(f"{name}/config.json")
        if name in _TOKENIZERS:
            needed += [f"{_TOKENIZERS[name]}/{file}" for file in _TOKENIZER_FILES]
    missing = [file for file in needed if not (folder / file).is_file()]
    for name in names:
        if _find_weights(folder / name, STEMS[name]) is None:
            _refuse_pickles(folder / name, source, prefix=f"{name}/")
            missing.append(f"{name}/{STEMS[name]}.safetensors")
    if missing:
        raise CheckpointInvalid(source, f"misses {', '.join(sorted(missing))}")


def _refuse_pickles(folder: Path, source: str, prefix: str = "") -> None:
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise PickleRefused(source, f"{prefix}{path.name}")


def _find_weights(folder: Path, stem: str) -> Path | None:
    """Return the weights file or shard index to read: full precision first, then fp16."""
    choices = (
        f"{stem}.safetensors",
        f"{stem}.safetensors.index.json",
        f"{stem}.fp16.safetensors",
        f"{stem}.safetensors.index.fp16.json",
    )
    return next((folder / name for name in choices if (folder / name).is_file()), None)


def _open_part(folder: Path, source: str, stem: str) -> Part:
    weights = _find_weights(folder, stem)
    assert weights is not None  # it was looked for before
    files = [weights] if weights.suffix == ".safetensors" else _shards(weights, source)
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for key, span in read_header(path).tensors.items():
            if key in tensors:
                raise CheckpointInvalid(source, f"tensor {key!r} is in two files of {folder.name}")
            tensors[key] = StoredTensor(path=path, key=key, span=span)
    config = read_json(folder / "config.json", source)
    return Part(source=source, name=folder.name, config=config, tensors=tensors)


def _shards(index_path: Path, source: str) -> list[Path]:
    """Return the files of a shard index, which must lie beside it."""
    name = f"{index_path.parent.name}/{index_path.name}"
    weight_map = read_json(index_path, source).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointInvalid(source, f"{name} has no weight_map")
    for shard in weight_map.values():
        if not _is_plain_shard(shard):
            raise CheckpointInvalid(source, f"{name} names {shard!r}, not a file beside it")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index_path.parent / shard).is_file()]
    if missing:
        files = ", ".join(f"{index_path.parent.name}/{shard}" for shard in missing)
        raise CheckpointInvalid(source, f"misses {files}")
    return [index_path.parent / shard for shard in shards]


def _is_plain_shard(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and not set(name) & set("/\\\0:")
    )

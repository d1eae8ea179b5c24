"""One door for every adapter that comes from outside, whatever its format.

Only safetensors is read, only within limits, and nothing is passed over: a key that means
nothing here is an error that names it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final

from torch import Tensor

from diptych.adapters import bundle, kohya, peft_format, token_format
from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.adapters.soundness import check_numbers, check_shapes
from diptych.adapters.stages import join_stages
from diptych.adapters.tensor_file import TensorFile, read_tensors
from diptych.errors import AdapterInvalid, PickleRefused
from diptych.storage.tensor_header import PICKLE_SUFFIXES, Refuse, parse_json

__all__ = ["Overrides", "read_adapter"]

_CONFIG: Final = "adapter_config.json"
_MAX_CONFIG_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the caller knows of an adapter, which counts before what its file says."""

    family: str | None = None
    base_fingerprint: str | None = None
    stage: Stage | None = None
    prediction_type: str | None = None
    zero_snr: bool | None = None
    timestep_range: tuple[int, int] | None = None
    trigger_words: tuple[str, ...] | None = None
    token_texts: tuple[str, ...] | None = None
    """What stands for the learned tokens: one text for all vectors, or one per vector."""

    def on(self, adapter: Adapter) -> Adapter:
        """Return ``adapter`` with what is known here in place of what its file said."""
        said = adapter.made_for
        made_for = MadeFor(
            family=self.family or said.family,
            base_fingerprint=self.base_fingerprint or said.base_fingerprint,
            stage=self.stage or said.stage,
            prediction_type=self.prediction_type or said.prediction_type,
            zero_snr=said.zero_snr if self.zero_snr is None else self.zero_snr,
            timestep_range=self.timestep_range or said.timestep_range,
        )
        words = self.trigger_words
        words = adapter.trigger_words if words is None else words
        return replace(adapter, made_for=made_for, trigger_words=words)


def read_adapter(data: bytes | Path, *, name: str, overrides: Overrides | None = None) -> Adapter:
    """Return the adapter in a file's bytes, a file, or a folder as diffusers and PEFT write them.

    A folder with one of them for the ``base`` and one for the ``refiner`` is one of both stages.

    Args:
        data: A bundle, or a file of kohya's, diffusers', PEFT's or textual inversion's form. A
            file is mapped: it must not be cut while the adapter lives.
        name: What the file is called, such as ``huggy.safetensors``; errors name it.
        overrides: What the caller knows better.

    Raises:
        PickleRefused: The weights are a pickle, by name or by content.
        AdapterInvalid: It is truncated, inconsistent, over a limit, holds NaN, infinities or
            numbers beyond float16, or has keys that mean nothing here; the first are named.
    """
    overrides = overrides or Overrides()
    if PurePath(name).suffix.lower() in PICKLE_SUFFIXES:
        raise PickleRefused(name, PurePath(name).name)
    if isinstance(data, Path) and data.is_dir():
        adapter = _read_folder(data, name, overrides)
    else:
        adapter = _read_file(read_tensors(data, source=name), name, overrides)
    texts = overrides.token_texts
    if texts is not None and set(texts) != adapter.tokens.keys():
        raise AdapterInvalid(name, f"has no nameless learned tokens to be called {texts!r:.80}")
    return check_numbers(check_shapes(overrides.on(adapter), name), name)


def _read_folder(folder: Path, name: str, overrides: Overrides) -> Adapter:
    refuse = partial(AdapterInvalid, name)
    if (folder / _CONFIG).is_file():
        return _read_peft_folder(folder, name, None)
    parts = [part for part in Component if (folder / part / _CONFIG).is_file()]
    if parts:
        found = [_read_peft_folder(folder / part, f"{name}/{part}", part) for part in parts]
        return _together(found, refuse)
    stages = [folder / stage for stage in (Stage.BASE, Stage.REFINER)]
    if all(own.is_dir() for own in stages):
        base, refiner = (_read_folder(own, f"{name}/{own.name}", overrides) for own in stages)
        return join_stages(base, refiner, refuse)
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    if not paths:
        pickles = [path for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES]
        if pickles:
            raise PickleRefused(name, pickles[0].name)
        raise refuse("holds no .safetensors file")
    sources = [f"{name}/{path.name}" for path in paths]
    files = [
        _read_file(read_tensors(path, source=source), source, overrides)
        for path, source in zip(paths, sources, strict=True)
    ]
    return _together(files, refuse)


def _read_peft_folder(folder: Path, name: str, component: Component | None) -> Adapter:
    refuse = partial(AdapterInvalid, name)
    path = folder / "adapter_model.safetensors"
    if not path.is_file() and path.with_suffix(".bin").is_file():
        raise PickleRefused(name, "adapter_model.bin")
    file = read_tensors(path, source=name)
    try:
        with (folder / _CONFIG).open("rb") as stream:
            raw = stream.read(_MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise refuse(f"{_CONFIG} cannot be read: {error.strerror}") from error
    if len(raw) > _MAX_CONFIG_BYTES:
        raise refuse(f"{_CONFIG} is over the limit of {_MAX_CONFIG_BYTES} bytes")
    config = parse_json(raw, refuse)
    return peft_format.read_peft(
        file.tensors, file.metadata, source=name, config=config, component=component
    )


def _read_file(file: TensorFile, name: str, overrides: Overrides) -> Adapter:
    if bundle.is_bundle(file.metadata):
        return bundle.from_tensor_file(file, source=name)
    of_tokens, updates = token_format.split_tokens(file.tensors)
    adapter = _read_updates(updates, file.metadata, name)
    if not of_tokens:
        return adapter
    tokens = token_format.read_tokens(
        of_tokens,
        file.metadata,
        source=name,
        texts=overrides.token_texts,
        is_pivotal=bool(updates),
    )
    return _together(
        [adapter, replace(adapter, targets={}, tokens=tokens)], partial(AdapterInvalid, name)
    )


def _read_updates(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Adapter:
    if kohya.is_kohya(tensors):
        return kohya.read_kohya(tensors, metadata, source=name)
    return peft_format.read_peft(tensors, metadata, source=name)


def _together(parts: Sequence[Adapter], refuse: Refuse) -> Adapter:
    """Return one adapter of all of ``parts``; what they were made for, the first updates tell."""
    targets: dict[Target, LowRank] = {}
    tokens: dict[str, LearnedToken] = {}
    metadata: dict[str, str] = {}
    for part in parts:
        if shared := targets.keys() & part.targets.keys():
            target = min(shared)
            raise refuse(f"has {target.component}.{target.module} in more than one of its files")
        if twice := tokens.keys() & part.tokens.keys():
            raise refuse(f"has token {min(twice)!r} in more than one place")
        targets |= part.targets
        tokens |= part.tokens
        metadata = {**part.metadata, **metadata}
    speaker = next((part for part in parts if part.targets), parts[0])
    return replace(
        speaker,
        targets=MappingProxyType(targets),
        tokens=MappingProxyType(tokens),
        metadata=MappingProxyType(metadata),
    )

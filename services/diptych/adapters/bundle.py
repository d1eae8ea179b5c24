"""Our own file of one adapter: one safetensors file whose header carries all that it is.

The header has one text, ``diptych_adapter``: canonical JSON of version, purpose, alphas, tokens,
words and carried metadata. One adapter has one spelling, so its digest is the adapter's name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, Magnitude, Target
from diptych.adapters.purpose import made_for_from_plain, made_for_to_plain
from diptych.adapters.soundness import check_shapes
from diptych.adapters.tensor_file import TensorFile, read_tensors, to_pieces
from diptych.digest import Digest, canonical_bytes
from diptych.errors import AdapterInvalid
from diptych.storage.tensor_header import Refuse, parse_json

__all__ = [
    "HEADER_KEY",
    "VERSION",
    "bundle_pieces",
    "digest_of",
    "from_bytes",
    "from_tensor_file",
    "is_bundle",
    "to_bytes",
]

HEADER_KEY: Final = "diptych_adapter"
VERSION: Final = 1
_SIDES: Final = {False: "output", True: "input"}


def to_bytes(adapter: Adapter) -> bytes:
    """Return the bundle of ``adapter``: equal adapters give equal bytes on every machine."""
    return b"".join(bundle_pieces(adapter))


def bundle_pieces(adapter: Adapter) -> Iterator[bytes]:
    """Yield the bundle of ``adapter`` piece by piece, so that it need not be held whole."""
    tensors: dict[str, Tensor] = {}
    for target, low_rank in adapter.targets.items():
        name = f"{target.component}.{target.module}"
        tensors |= {f"{name}/down": low_rank.down, f"{name}/up": low_rank.up}
        if low_rank.magnitude is not None:
            tensors[f"{name}/magnitude"] = low_rank.magnitude.norms
    for index, text in enumerate(sorted(adapter.tokens)):
        for component, vectors in adapter.tokens[text].vectors.items():
            tensors[f"tokens/{index}/{component}"] = vectors
    content = canonical_bytes(_content(adapter)).decode()
    return to_pieces(tensors, {HEADER_KEY: content})


def digest_of(adapter: Adapter) -> Digest:
    """Return the name of ``adapter``: the digest of its bundle."""
    state = hashlib.sha256()
    for piece in bundle_pieces(adapter):
        state.update(piece)
    return Digest(hex=state.hexdigest())


def is_bundle(metadata: Mapping[str, str]) -> bool:
    """Return whether a safetensors header's texts are those of a bundle."""
    return HEADER_KEY in metadata


def from_bytes(data: bytes | Path, *, source: str = "bundle") -> Adapter:
    """Return the adapter in a bundle, or in a file that holds one, which is mapped and not read.

    The numbers are not looked at: that they are finite was checked when the adapter came in.

    Raises:
        PickleRefused: It is a pickle.
        AdapterInvalid: It is not a bundle, or one that breaks the format's rules.
    """
    file = read_tensors(data, source=source)
    if not is_bundle(file.metadata):
        raise AdapterInvalid(source, f"has no {HEADER_KEY} in its header, so it is no bundle")
    return from_tensor_file(file, source=source)


def from_tensor_file(file: TensorFile, *, source: str) -> Adapter:
    """Return the adapter in ``file``, whose header has ``HEADER_KEY``.

    Raises:
        AdapterInvalid: Header and tensors do not agree, or one of them breaks the format's rules.
    """
    refuse = partial(AdapterInvalid, source)
    content = parse_json(file.metadata[HEADER_KEY], refuse)
    if content.get("version") != VERSION:
        raise refuse(f"is a bundle of version {content.get('version')!r}, expected {VERSION}")
    left = dict(file.tensors)
    adapter = Adapter(
        targets=MappingProxyType(_targets(content, left, refuse)),
        tokens=MappingProxyType(_tokens(content, left, refuse)),
        made_for=made_for_from_plain(_map(content, "made_for", refuse), refuse),
        trigger_words=tuple(_texts(content, "trigger_words", refuse)),
        metadata=MappingProxyType(_metadata(content, refuse)),
    )
    if left:
        raise refuse(f"has a tensor {min(left)!r} that its header does not name")
    return check_shapes(adapter, source)


def _content(adapter: Adapter) -> dict[str, object]:
    targets: dict[str, dict[str, object]] = {}
    for target, low_rank in adapter.targets.items():
        entry: dict[str, object] = {"alpha": float(low_rank.alpha) + 0.0}  # not -0.0
        if low_rank.magnitude is not None:
            entry["magnitude_per"] = _SIDES[low_rank.magnitude.per_input]
        targets[f"{target.component}.{target.module}"] = entry
    return {
        "version": VERSION,
        "made_for": made_for_to_plain(adapter.made_for),
        "targets": targets,
        "tokens": sorted(adapter.tokens),
        "trigger_words": list(adapter.trigger_words),
        "metadata": dict(adapter.metadata),
    }


def _targets(
    content: Mapping[str, object], left: dict[str, Tensor], refuse: Refuse
) -> dict[Target, LowRank]:
    found: dict[Target, LowRank] = {}
    for name, entry in _map(content, "targets", refuse).items():
        component, _, module = name.partition(".")
        if component not in set(Component) or not isinstance(entry, dict):
            raise refuse(f"names a target {name!r} that is none")
        alpha = entry.get("alpha")
        if not isinstance(alpha, float):
            raise refuse(f"target {name!r} has alpha {alpha!r:.80}, expected a fraction")
        found[Target(component=Component(component), module=module)] = LowRank(
            down=_take(left, f"{name}/down", refuse),
            up=_take(left, f"{name}/up", refuse),
            alpha=alpha,
            magnitude=_magnitude(name, entry.get("magnitude_per"), left, refuse),
        )
    return found


def _magnitude(
    name: str, side: object, left: dict[str, Tensor], refuse: Refuse
) -> Magnitude | None:
    if side is None:
        return None
    if side not in _SIDES.values():
        raise refuse(f"target {name!r} has a magnitude per {side!r}, expected output or input")
    return Magnitude(norms=_take(left, f"{name}/magnitude", refuse), per_input=side == "input")


def _tokens(
    content: Mapping[str, object], left: dict[str, Tensor], refuse: Refuse
) -> dict[str, LearnedToken]:
    found: dict[str, LearnedToken] = {}
    for index, text in enumerate(_texts(content, "tokens", refuse)):
        keys = {part: f"tokens/{index}/{part}" for part in Component}
        vectors = {part: left.pop(key) for part, key in keys.items() if key in left}
        if text in found:
            raise refuse(f"names token {text!r} twice")
        found[text] = LearnedToken(vectors=MappingProxyType(vectors))
    return found


def _metadata(content: Mapping[str, object], refuse: Refuse) -> dict[str, str]:
    entries = _map(content, "metadata", refuse).items()
    found = {key: value for key, value in entries if isinstance(value, str)}
    if len(found) != len(entries):
        raise refuse("carries metadata that is not a map of texts")
    return found


def _take(left: dict[str, Tensor], key: str, refuse: Refuse) -> Tensor:
    tensor = left.pop(key, None)
    if tensor is None:
        raise refuse(f"misses tensor {key!r}")
    return tensor


def _map(content: Mapping[str, object], key: str, refuse: Refuse) -> dict[str, object]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise refuse(f"has {key} {value!r:.80}, expected a map")
    return value


def _texts(content: Mapping[str, object], key: str, refuse: Refuse) -> list[str]:
    value = content.get(key)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise refuse(f"has {key} {value!r:.80}, expected a list of texts")
    return value

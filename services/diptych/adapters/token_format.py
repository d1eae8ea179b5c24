"""Learned tokens in the files of textual inversion and pivotal tuning.

Read: ``clip_l`` and ``clip_g`` [n, D] (diffusers' trainers, kohya, ComfyUI), cog's
``text_encoders_0`` and ``_1``, and files of one encoder: diffusers' (the key is the token's text),
webui's ``emb_params`` and ``string_to_param.*``. Which encoder those are for, their width tells.

Few files say what their rows mean. Pivotal tuning learns tokens ``<s0>``, ``<s1>``, one row each;
its files end in ``_emb`` or are cog's. Other files are one token of n vectors, called as the file.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePath
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LearnedToken
from diptych.digest import canonical_bytes
from diptych.errors import AdapterInvalid, ConversionUnsupported
from diptych.storage.tensor_header import Refuse, parse_json

__all__ = ["TOKENS_KEY", "read_tokens", "split_tokens", "write_tokens"]

TOKENS_KEY: Final = "diptych_tokens"
"""Our own header entry: canonical JSON of each token's text, vectors and encoders, in order."""
_PIVOTAL_ENDS: Final = ("_emb", "_embeddings")
_PAIRS: Final = {
    "clip_l": Component.TEXT_ENCODER,
    "clip_g": Component.TEXT_ENCODER_2,
    "text_encoders_0": Component.TEXT_ENCODER,
    "text_encoders_1": Component.TEXT_ENCODER_2,
}
_KEYS: Final = {Component.TEXT_ENCODER: "clip_l", Component.TEXT_ENCODER_2: "clip_g"}
_NAMELESS: Final = frozenset({"emb_params", "string_to_param.*", "*"})
_WIDTHS: Final = {768: Component.TEXT_ENCODER, 1280: Component.TEXT_ENCODER_2}
"""Of CLIP-L and of OpenCLIP-G."""


def split_tokens(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a file's tensors of learned tokens, and the others."""
    if _is_token_file(tensors):
        return dict(tensors), {}
    of_tokens = {key: tensor for key, tensor in tensors.items() if key in _PAIRS}
    return of_tokens, {key: own for key, own in tensors.items() if key not in of_tokens}


def read_tokens(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    source: str,
    texts: Sequence[str] | None = None,
    is_pivotal: bool = False,
) -> dict[str, LearnedToken]:
    """Return the tokens of ``tensors``, which ``split_tokens`` chose, by their text.

    Args:
        tensors: All of the file's, or of a part that holds no updates.
        metadata: The header's texts.
        source: The file's name, which errors and nameless tokens are called by.
        texts: What the caller calls them: one text for all vectors, or one per vector.
        is_pivotal: Whether they lie beside updates that were trained with them.

    Raises:
        AdapterInvalid: Rows are no vectors, are of another number than texts, differ between the
            encoders, or of one encoder that cannot be told.
    """
    refuse = partial(AdapterInvalid, source)
    rows = _rows(tensors, refuse)
    if texts is None and TOKENS_KEY in metadata:
        return _as_said(metadata[TOKENS_KEY], rows, refuse)
    num_rows = {len(vectors) for vectors in rows.values()}
    if len(num_rows) != 1:
        shapes = {str(part): list(vectors.shape) for part, vectors in rows.items()}
        raise refuse(f"has vectors {shapes}, expected as many of each encoder")
    if texts is None:
        texts = _texts(tensors, num_rows.pop(), source, is_pivotal=is_pivotal)
    return _split(texts, rows, refuse)


def write_tokens(
    adapter: Adapter, *, target_format: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and header entry of a file of all of ``adapter``'s tokens.

    Raises:
        ConversionUnsupported: Vectors of one encoder differ in width or dtype, so that they
            cannot lie in one tensor.
    """
    tensors: dict[str, Tensor] = {}
    for component, key in _KEYS.items():
        parts = [
            token.vectors[component]
            for _, token in sorted(adapter.tokens.items())
            if component in token.vectors
        ]
        if len({(part.shape[1], part.dtype) for part in parts}) > 1:
            content = f"learned tokens of unlike width or precision for {component}"
            raise ConversionUnsupported(target_format=target_format, content=content)
        if parts:
            tensors[key] = torch.cat(parts)
    said = [
        {"text": text, "num_vectors": token.num_vectors, "encoders": sorted(token.vectors)}
        for text, token in sorted(adapter.tokens.items())
    ]
    return tensors, {TOKENS_KEY: canonical_bytes({"tokens": said}).decode()}


def _is_token_file(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether tensors are one that is called as its token is."""
    if len(tensors) != 1:
        return False
    ((key, tensor),) = tensors.items()
    return tensor.ndim in {1, 2} and (key in _NAMELESS or "." not in key)


def _rows(tensors: Mapping[str, Tensor], refuse: Refuse) -> dict[Component, Tensor]:
    found: dict[Component, Tensor] = {}
    for key, tensor in tensors.items():
        rows = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
        if rows.ndim != 2:
            raise refuse(f"key {key!r} has shape {list(tensor.shape)}, expected [n, D]")
        component = _PAIRS.get(key, _WIDTHS.get(rows.shape[1]))
        if component is None:
            width = f"{rows.shape[1]}, expected 768 (CLIP-L) or 1280 (OpenCLIP-G)"
            raise refuse(f"key {key!r} has vectors of width {width}")
        if component in found:
            raise refuse(f"key {key!r} is there under another name too")
        found[component] = rows
    return found


def _texts(
    tensors: Mapping[str, Tensor], num_rows: int, source: str, *, is_pivotal: bool
) -> list[str]:
    """Return what to call the tokens of a file that does not say."""
    stem = PurePath(source).stem
    (key, *_) = tensors
    if is_pivotal or key.startswith("text_encoders_") or stem.endswith(_PIVOTAL_ENDS):
        return [f"<s{index}>" for index in range(num_rows)]
    return [stem if key in _PAIRS or key in _NAMELESS else key]


def _split(
    texts: Sequence[str], rows: Mapping[Component, Tensor], refuse: Refuse
) -> dict[str, LearnedToken]:
    num_rows = len(next(iter(rows.values())))
    if len(texts) == 1:
        return {texts[0]: LearnedToken(vectors=MappingProxyType(dict(rows)))}
    if len(texts) != num_rows or len(set(texts)) != num_rows:
        raise refuse(f"has {num_rows} vectors, which {len(texts)} tokens {texts!r:.80} cannot name")
    return {
        text: LearnedToken(
            vectors=MappingProxyType(
                {part: vectors[index : index + 1] for part, vectors in rows.items()}
            )
        )
        for index, text in enumerate(texts)
    }


def _as_said(
    said: str, rows: Mapping[Component, Tensor], refuse: Refuse
) -> dict[str, LearnedToken]:
    """Return the tokens that ``write_tokens`` wrote."""
    entries = parse_json(said, refuse).get("tokens")
    left = dict(rows)
    found: dict[str, LearnedToken] = {}
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case {"text": str(text), "num_vectors": int(count), "encoders": [*encoders]} if (
                count > 0 and text not in found and {*map(str, encoders)} <= {*map(str, _KEYS)}
            ):
                vectors: dict[Component, Tensor] = {}
                for part in map(Component, encoders):
                    own = left.get(part, torch.empty(0, 0))
                    vectors[part], left[part] = own[:count], own[count:]
                if any(len(part) != count for part in vectors.values()):
                    raise refuse(f"has not the {count} vectors of token {text!r:.80}")
                found[text] = LearnedToken(vectors=MappingProxyType(vectors))
            case _:
                raise refuse(f"has {TOKENS_KEY} with {entry!r:.80}, which is no token")
    if not found or any(len(vectors) for vectors in left.values()):
        raise refuse(f"has vectors that its {TOKENS_KEY} does not name")
    return found

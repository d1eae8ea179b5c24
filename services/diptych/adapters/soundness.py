"""What must hold of every adapter, whatever format it came in."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import MAX_RANK, Adapter, LearnedToken, LowRank, Target
from diptych.errors import AdapterInvalid
from diptych.storage.tensor_header import Refuse

__all__ = ["FLOAT_DTYPES", "MAX_VECTORS", "check_numbers", "check_shapes", "shaped_down"]

FLOAT_DTYPES: Final = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_MAX_NUMBER: Final = 65504.0
"""Float16's largest; no trained factor, norm or vector comes near it."""
MAX_VECTORS: Final = 64
"""Most places of a prompt that one learned token may take; a window has 75."""
_MAX_TOKEN_LENGTH: Final = 100
_MODULE: Final = re.compile(r"\w{1,64}(\.\w{1,64}){0,15}", re.ASCII)


def check_shapes(adapter: Adapter, source: str) -> Adapter:
    """Return ``adapter`` if it is one that could be applied to some model; reads no weights.

    Raises:
        AdapterInvalid: It is empty, or a target or token has a name, rank, shape, dtype or alpha
            that none can have; ``source`` and the target are named.
    """
    refuse = partial(AdapterInvalid, source)
    if not adapter.targets and not adapter.tokens:
        raise refuse("holds neither targets nor learned tokens")
    for target, low_rank in adapter.targets.items():
        _check_target(target, low_rank, refuse)
    for text, token in adapter.tokens.items():
        _check_token(text, token, refuse)
    made_for = adapter.made_for
    purpose = (made_for.family, made_for.base_fingerprint, made_for.prediction_type)
    carried = (*adapter.metadata, *adapter.metadata.values(), *adapter.trigger_words)
    for text in (*carried, *(known for known in purpose if known is not None)):
        if not _is_unicode(text):
            raise refuse(f"has a text {text!r:.80} that is not Unicode")
    return adapter


def check_numbers(adapter: Adapter, source: str) -> Adapter:
    """Return ``adapter`` if it can be computed with in every dtype served; reads all of it.

    Raises:
        AdapterInvalid: A tensor holds NaN, an infinity or what float16 cannot hold, with alpha
            in it or without, or an update's outputs leave float16 for inputs of size 1; the
            tensor is named.
    """
    refuse = partial(AdapterInvalid, source)
    for name, tensor in _tensors(adapter).items():
        _check_largest(name, _largest(tensor), refuse)
    for target, low_rank in adapter.targets.items():
        name = f"{target.component}.{target.module}"
        largest = abs(low_rank.scale) * _largest(low_rank.up)
        _check_largest(f"{name} up, times alpha / rank,", largest, refuse)
        size = _row_norm(low_rank)
        if size > _MAX_NUMBER:
            limit = f"the limit is {_MAX_NUMBER:g}, float16's largest"
            raise refuse(f"{name} changes a weight by rows of norm {size:.3g}, {limit}")
    return adapter


def shaped_down(down: Tensor, kernel: int | None, refuse: Refuse) -> Tensor:
    """Return ``lora_down`` [r, in] of a linear layer, [r, in, k, k] of a convolution.

    A convolution's may come flat, as [r, in * k * k], and a linear layer's as a convolution of
    1 x 1.

    Args:
        down: As a file has it.
        kernel: The side of the convolution's kernel, None for a linear layer.
        refuse: Makes the error.

    Raises:
        DiptychError: ``refuse``'s, when it is of another kernel.
    """
    if kernel is None:
        return down.flatten(1) if down.shape[2:] == (1, 1) else down
    if down.ndim == 2 and down.shape[1] % kernel**2 == 0:
        return down.reshape(down.shape[0], -1, kernel, kernel)
    if down.ndim != 4 or down.shape[2:] != (kernel, kernel):
        raise refuse(f"has lora_down {list(down.shape)} for a {kernel} x {kernel} convolution")
    return down


def _tensors(adapter: Adapter) -> Mapping[str, Tensor]:
    found: dict[str, Tensor] = {}
    for target, low_rank in adapter.targets.items():
        name = f"{target.component}.{target.module}"
        found |= {f"{name} down": low_rank.down, f"{name} up": low_rank.up}
        if low_rank.magnitude is not None:
            found[f"{name} magnitude"] = low_rank.magnitude.norms
    for text, token in adapter.tokens.items():
        found |= {f"token {text!r} of {part}": rows for part, rows in token.vectors.items()}
    return found


def _largest(tensor: Tensor) -> float:
    """Return the largest magnitude, NaN if there is a NaN."""
    return float(torch.stack(torch.aminmax(tensor)).abs().max())


def _check_largest(name: str, largest: float, refuse: Refuse) -> None:
    if not math.isfinite(largest):
        raise refuse(f"{name} holds NaN or infinite values")
    if largest > _MAX_NUMBER:
        limit = f"the limit is {_MAX_NUMBER:g}, float16's largest"
        raise refuse(f"{name} holds {largest:.3g}, {limit}")


def _row_norm(low_rank: LowRank) -> float:
    """Return the root mean square of the norms of dW's rows, or a larger bound if that is small."""
    down, up = low_rank.down.flatten(1), low_rank.up
    rows = math.sqrt(len(up))
    bound = abs(low_rank.scale) * _norm(down) * _norm(up) / rows
    if bound <= _MAX_NUMBER:
        return bound
    down, up = down.double(), up.double()
    square = float(((down @ down.mT) * (up.mT @ up)).sum())
    return abs(low_rank.scale) * math.sqrt(max(square, 0.0)) / rows


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _is_unicode(text: str) -> bool:
    """Return False for half of a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_target(target: Target, low_rank: LowRank, refuse: Refuse) -> None:
    name = f"{target.component}.{target.module}"
    if not _MODULE.fullmatch(target.module):
        raise refuse(f"target {name[:120]!r} is no module's name")
    down, up = low_rank.down, low_rank.up
    shapes = f"down {list(down.shape)} and up {list(up.shape)}"
    if down.ndim not in {2, 4} or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise refuse(f"{name} has {shapes}, expected [r, in] or [r, in, kh, kw] and [out, r]")
    if down.numel() == 0 or up.numel() == 0:
        raise refuse(f"{name} has {shapes}, which are empty")
    if low_rank.rank > MAX_RANK:
        raise refuse(f"{name} has rank {low_rank.rank}, the limit is {MAX_RANK}")
    if not math.isfinite(low_rank.alpha):
        raise refuse(f"{name} has alpha {low_rank.alpha}, expected a finite number")
    _check_dtypes(name, (down, up), refuse)
    if low_rank.magnitude is not None:
        norms = low_rank.magnitude.norms
        side = "input" if low_rank.magnitude.per_input else "output"
        expected = [down.shape[1] if low_rank.magnitude.per_input else up.shape[0]]
        if list(norms.shape) != expected:
            found = list(norms.shape)
            raise refuse(f"{name} has a magnitude {found}, expected {expected}, one per {side}")
        _check_dtypes(name, (norms,), refuse)


def _check_token(text: str, token: LearnedToken, refuse: Refuse) -> None:
    if not text.isprintable() or text != text.strip() or not 0 < len(text) <= _MAX_TOKEN_LENGTH:
        shown = text[:_MAX_TOKEN_LENGTH]
        raise refuse(f"token {shown!r} is not 1 to {_MAX_TOKEN_LENGTH} printable characters")
    shapes = {str(part): list(rows.shape) for part, rows in token.vectors.items()}
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
        raise refuse(f"token {text!r} has vectors {shapes}, expected [n, D] by text encoder")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise refuse(f"token {text!r} has vectors {shapes}, expected as many of each encoder")
    if any(not part.startswith("text_encoder") for part in shapes):
        raise refuse(f"token {text!r} has vectors of {sorted(shapes)}, which are not encoders")
    if token.num_vectors > MAX_VECTORS:
        raise refuse(f"token {text!r} has {token.num_vectors} vectors, the limit is {MAX_VECTORS}")
    _check_dtypes(f"token {text!r}", tuple(token.vectors.values()), refuse)


def _check_dtypes(name: str, tensors: tuple[Tensor, ...], refuse: Refuse) -> None:
    for tensor in tensors:
        if tensor.dtype not in FLOAT_DTYPES:
            raise refuse(f"{name} holds {tensor.dtype}, expected floating point")

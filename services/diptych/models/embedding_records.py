"""What an expert's embeddings depend on, as the cache's keys tell it."""

import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.digest import Digest, canonical_bytes
from diptych.embeddings.key import EncoderIdentity, PromptRecord, StoredDtype
from diptych.models.autoencoder import Autoencoder
from diptych.models.embedding_values import dtype_name
from diptych.models.text_encoders import PromptRow, TextEncoders

__all__ = ["image_identity", "prompt_identity", "prompt_record"]


def prompt_identity(text: TextEncoders, stored: StoredDtype | None = None) -> EncoderIdentity:
    """Return who encodes the prompts; ``stored`` None keeps what the encoders compute in."""
    precision = dtype_name(text.dtype)
    joined = Digest.of_value([encoder.fingerprint for encoder in text.encoders])
    return EncoderIdentity(fingerprint=str(joined), precision=precision, stored=stored or precision)


def image_identity(vae: Autoencoder, stored: StoredDtype | None = None) -> EncoderIdentity:
    """Return who encodes the pictures; ``stored`` None keeps what the autoencoder computes in."""
    precision = dtype_name(vae.dtype)
    return EncoderIdentity(
        fingerprint=vae.fingerprint, precision=precision, stored=stored or precision
    )


def prompt_record(
    text: TextEncoders, row: PromptRow, stored: StoredDtype | None = None
) -> PromptRecord | None:
    """Return what the embedding of ``row`` depends on; None where no key could tell.

    Rows whose embeddings are equal get equal records: how a text too long would be treated does
    not matter where it fits, nor do learned tokens that it does not have.

    Raises:
        PromptTooLong: as ``TextEncoders.num_windows``.
        InvalidRequest: as ``TextEncoders.num_windows``.
    """
    variant = row.variant
    if variant is not None and variant.weights is not None and variant.identity is None:
        return None
    plan = text.plan(row)
    value = row.text if row.text is not None or text.zeros_for_none else ""
    is_encoded = value is not None
    overrides = _overrides(value, variant.tokens) if variant is not None and value else {}
    return PromptRecord(
        encoder=prompt_identity(text, stored),
        text=value,
        num_windows=plan.num_windows,
        is_chunked=plan.num_text_windows > 1,
        clip_skip=row.clip_skip if is_encoded else 0,
        token_overrides=overrides,
        weights=(variant.identity or ()) if variant is not None and is_encoded else (),
    )


def _overrides(text: str, tokens: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Return the digests of the vectors of those learned tokens that ``text`` may have."""
    names = {name for vectors in tokens.values() for name in vectors}
    return {
        name: str(
            _vectors_digest({own: found[name] for own, found in tokens.items() if name in found})
        )
        for name in names
        if re.search(re.escape(name), text, re.IGNORECASE)
    }


def _vectors_digest(vectors: Mapping[str, Tensor]) -> Digest:
    """Return the digest of one token's vectors [n, D], by the name of their encoder."""
    state = hashlib.sha256()
    for encoder in sorted(vectors):
        own = vectors[encoder].detach().to("cpu").contiguous()
        state.update(canonical_bytes([encoder, str(own.dtype), list(own.shape)]))
        state.update(own.view(torch.uint8).numpy().tobytes())
    return Digest(hex=state.hexdigest())

"""Texts to embeddings, the encoders being asked for those only that no cache has."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from diptych.digest import Digest
from diptych.errors import EmbeddingInvalid
from diptych.inference.prompt_cache import PromptCache
from diptych.models.embedding_records import prompt_record
from diptych.models.embedding_values import dtype_name, read_prompt, write_prompt
from diptych.models.text_encoders import PromptEmbeds, PromptRow, TextEncoders, Using

__all__ = ["EncodedText", "encode_texts"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedText:
    """One row's embedding, and whether the encoders were spared it."""

    embeds: PromptEmbeds
    is_cached: bool


def encode_texts(
    text: TextEncoders,
    rows: Sequence[PromptRow],
    using: Using | None,
    prompts: PromptCache | None,
) -> list[EncodedText]:
    """Return the embedding of each row, the same bits whether ``prompts`` had it or not.

    Args:
        text: What encodes, and whose keys are looked for.
        rows: The texts.
        using: Applies the weights of the rows' variants.
        prompts: Where embeddings are looked for and kept, in the encoders' own dtype; None
            encodes everything.

    Raises:
        PromptTooLong: as ``TextEncoders.encode``.
    """
    if prompts is None or not rows:
        return [EncodedText(embeds=e, is_cached=False) for e in text.encode(rows, using)]
    keys = [_key(text, row) for row in rows]
    found = _look(text, rows, keys, prompts)
    missing = [index for index, key in enumerate(keys) if key is None or key not in found]
    made = text.encode([rows[index] for index in missing], using) if missing else []
    fresh = dict(zip(missing, made, strict=True))
    _keep({key: fresh[i] for i in missing if (key := keys[i]) is not None}, prompts)
    return list(_merged(keys, found, fresh))


def _key(text: TextEncoders, row: PromptRow) -> Digest | None:
    record = prompt_record(text, row)
    return None if record is None else record.key()


def _look(
    text: TextEncoders,
    rows: Sequence[PromptRow],
    keys: Sequence[Digest | None],
    prompts: PromptCache,
) -> dict[Digest, PromptEmbeds]:
    """Return what ``prompts`` has; an entry that is none counts as missing and is replaced."""
    by_key = {key: row for key, row in zip(keys, rows, strict=True) if key is not None}
    found: dict[Digest, PromptEmbeds] = {}
    for key, data in prompts.get_many(list(by_key)).items():
        try:
            found[key] = _read(text, by_key[key], data)
        except EmbeddingInvalid as error:
            _log.warning("entry %s is encoded anew: %s", key, error)
    return found


def _read(text: TextEncoders, row: PromptRow, data: bytes) -> PromptEmbeds:
    embeds = read_prompt(data, device=text.device, dtype=text.dtype)
    num_tokens = text.num_windows(row) * text.window_tokens
    for name, found, expected in (
        ("hidden", embeds.hidden, (1, num_tokens, text.hidden_dim)),
        ("pooled", embeds.pooled, (1, text.pooled_dim)),
    ):
        if tuple(found.shape) != expected:
            problem = f"{name} has shape {list(found.shape)}, expected {list(expected)}"
            raise EmbeddingInvalid(problem)
        if not bool(torch.isfinite(found).all()):
            raise EmbeddingInvalid(f"{name} holds values that are not finite")
    return embeds


def _keep(made: dict[Digest, PromptEmbeds], prompts: PromptCache) -> None:
    entries: dict[Digest, bytes] = {}
    for key, embeds in made.items():
        try:
            entries[key] = write_prompt(embeds, dtype_name(embeds.hidden.dtype))
        except EmbeddingInvalid as error:
            _log.warning("the embedding of %s is not kept: %s", key, error)
    if entries:
        prompts.put_many(entries)


def _merged(
    keys: Sequence[Digest | None],
    found: dict[Digest, PromptEmbeds],
    fresh: dict[int, PromptEmbeds],
) -> Iterator[EncodedText]:
    for index, key in enumerate(keys):
        if index in fresh:
            yield EncodedText(embeds=fresh[index], is_cached=False)
        else:
            assert key is not None
            yield EncodedText(embeds=found[key], is_cached=True)

"""Prompts to embeddings, as diffusers' SDXL pipelines make them, for many requests at once."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diptych.digest import Digest
from diptych.errors import CheckpointInvalid, PromptTooLong
from diptych.models.assembly import assemble, require_class
from diptych.models.parts import Part, TokenizerFiles

__all__ = [
    "PromptEmbeds",
    "PromptRow",
    "TextEncoder",
    "TextEncoders",
    "Vocabulary",
    "load_text_encoder",
    "load_vocabulary",
]

_MAX_WINDOWS_PER_CALL = 64
_CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""The only settings passed on: others could name code or kernels to fetch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """One text to encode for one row of a batch."""

    text: str | None
    """None is a negative prompt that was not given: zeros, or "" where the checkpoint says so."""
    field: str = "prompt"
    """What an error calls this text."""
    long_prompt: str = "error"
    """``error``, ``truncate`` or ``chunk``, for text beyond one window."""
    min_windows: int = 1
    """Windows to fill up to with empty text, so that two rows get the same length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """What a UNet is told of one text, in the encoders' dtype on their device."""

    hidden: Tensor
    """[1, 77 * num_windows, D]: penultimate hidden states, both encoders' joined."""
    pooled: Tensor
    """[1, P]: the last encoder's pooled embedding of the first window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A CLIP tokenizer that is only read, so threads may share it."""

    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    pad_id: int
    window: int
    """Tokens an encoder sees at once, start and end included."""
    fingerprint: str

    @property
    def num_content(self) -> int:
        """Tokens of text in one window."""
        return self.window - 2

    def tokenize(self, text: str) -> tuple[list[int], list[int]]:
        """Return the token ids of ``text`` without start and end, and where each begins in it."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [begin for begin, _ in encoding.offsets]

    def windows(self, ids: Sequence[int], num_windows: int) -> list[tuple[int, ...]]:
        """Return ``num_windows`` windows of ids: start, text, end, padding; excess text is cut."""
        size = self.num_content
        pieces = [tuple(ids[i * size : (i + 1) * size]) for i in range(num_windows)]
        return [
            (self.bos_id, *piece, self.eos_id, *[self.pad_id] * (size - len(piece)))
            for piece in pieces
        ]


class TextEncoder:
    """One CLIP text encoder and its vocabulary, with frozen weights; safe to share."""

    def __init__(
        self,
        module: CLIPTextModel | CLIPTextModelWithProjection,
        vocabulary: Vocabulary,
        *,
        fingerprint: str,
    ) -> None:
        self.module = module
        self.vocabulary = vocabulary
        self.fingerprint = fingerprint
        parameter = next(module.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self.hidden_dim: int = module.config.hidden_size
        self.pools = isinstance(module, CLIPTextModelWithProjection)
        self._lock = threading.Lock()  # transformers records hidden states with hooks

    @torch.inference_mode()
    def encode(self, windows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor | None]:
        """Return hidden states [N, 77, D] and, if this encoder pools, the pooled ones [N, P]."""
        hidden: list[Tensor] = []
        pooled: list[Tensor] = []
        for start in range(0, len(windows), _MAX_WINDOWS_PER_CALL):
            ids = torch.tensor(windows[start : start + _MAX_WINDOWS_PER_CALL], device=self.device)
            with self._lock:
                output = self.module(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            if self.pools:
                pooled.append(output.text_embeds)
        return torch.cat(hidden), torch.cat(pooled) if self.pools else None


class TextEncoders:
    """The encoders of one expert, in the order their hidden states are joined.

    The last one pools. Stateless between calls and safe to call from several threads.
    """

    def __init__(self, encoders: Sequence[TextEncoder], *, zeros_for_none: bool) -> None:
        self.encoders = tuple(encoders)
        self.zeros_for_none = zeros_for_none
        assert self.encoders[-1].pools

    @property
    def fingerprint(self) -> str:
        """The encoders' fingerprints in order, as one."""
        parts = [encoder.fingerprint for encoder in self.encoders]
        return str(Digest.of_value([*parts, self.zeros_for_none]))

    @property
    def hidden_dim(self) -> int:
        """Width D of the joined hidden states."""
        return sum(encoder.hidden_dim for encoder in self.encoders)

    def num_windows(self, row: PromptRow) -> int:
        """Return how many windows ``row`` fills: 1, or more for a long text with ``chunk``.

        Raises:
            PromptTooLong: the text is longer than one window and ``long_prompt`` is ``error``.
        """
        return self._plan(row)[0]

    def encode(self, rows: Sequence[PromptRow]) -> list[PromptEmbeds]:
        """Return one embedding per row; equal windows of text are computed once.

        Raises:
            PromptTooLong: as ``num_windows``, for the first such row; nothing is computed then.
        """
        plans = [self._plan(row) for row in rows]
        hidden: list[list[Tensor]] = [[] for _ in rows]
        pooled: list[Tensor] = []
        for position, encoder in enumerate(self.encoders):
            windows = [
                encoder.vocabulary.windows(ids[position], count) if ids is not None else []
                for count, ids in plans
            ]
            distinct = list(dict.fromkeys(window for row in windows for window in row))
            places = {window: place for place, window in enumerate(distinct)}
            # With nothing but zeros wanted, one empty window still tells their shape.
            states, pools = encoder.encode(distinct or encoder.vocabulary.windows([], 1))
            for row, (count, _), row_windows in zip(hidden, plans, windows, strict=True):
                row.append(_join(states, [places[window] for window in row_windows], count))
            if pools is not None and encoder is self.encoders[-1]:
                pooled = [
                    pools[places[row[0]]][None] if row else torch.zeros_like(pools[:1])
                    for row in windows
                ]
        return [
            PromptEmbeds(hidden=torch.cat(states, dim=-1), pooled=pool)
            for states, pool in zip(hidden, pooled, strict=True)
        ]

    def _plan(self, row: PromptRow) -> tuple[int, list[list[int]] | None]:
        """Return a row's number of windows and its token ids per encoder; None for zeros."""
        if row.text is None and self.zeros_for_none:
            return row.min_windows, None
        tokens = [encoder.vocabulary.tokenize(row.text or "") for encoder in self.encoders]
        limit = min(encoder.vocabulary.num_content for encoder in self.encoders)
        ids, begins = max(tokens, key=lambda item: len(item[0]))
        num_windows = 1
        if len(ids) > limit and row.long_prompt == "error":
            cut = (row.text or "")[begins[limit] :]
            raise PromptTooLong(field=row.field, num_tokens=len(ids), limit=limit, cut_text=cut)
        if row.long_prompt == "chunk":
            num_windows = max(1, -(-len(ids) // limit))
        return max(num_windows, row.min_windows), [ids for ids, _ in tokens]


def load_vocabulary(files: TokenizerFiles, source: str, *, window: int) -> Vocabulary:
    """Return the CLIP vocabulary in a folder.

    Raises:
        CheckpointInvalid: the folder holds no CLIP tokenizer.
    """
    words: dict[str, Any] = {} if files.pad_token is None else {"pad_token": files.pad_token}
    missing = [n for n in ("vocab.json", "merges.txt") if not (files.folder / n).is_file()]
    if missing:
        raise CheckpointInvalid(source, f"tokenizer misses {', '.join(missing)}")
    try:
        loaded = CLIPTokenizer.from_pretrained(files.folder, local_files_only=True, **words)
    except Exception as error:  # tokenizers raises nothing narrower
        problem = f"{files.folder.name} is no CLIP tokenizer: {error}"
        raise CheckpointInvalid(source, problem) from error
    tokenizer: Tokenizer = loaded.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    window = min(window, loaded.model_max_length)
    return Vocabulary(
        tokenizer=tokenizer,
        bos_id=ids[0],
        eos_id=ids[1],
        pad_id=ids[2],
        window=window,
        fingerprint=str(Digest.of_value([tokenizer.to_str(), ids, window])),
    )


def load_text_encoder(
    part: Part,
    vocabulary: Vocabulary,
    *,
    device: torch.device,
    dtype: torch.dtype,
    fingerprint: str,
) -> TextEncoder:
    """Return the text encoder that ``part`` describes: ``text_encoder_2`` is the one that pools.

    Raises:
        CheckpointInvalid: the part is not such an encoder, does not fit its weights, or has
            fewer embeddings than the vocabulary has words.
    """
    pools = part.name == "text_encoder_2"
    require_class(
        part, "architectures", "CLIPTextModelWithProjection" if pools else "CLIPTextModel"
    )
    module: CLIPTextModel | CLIPTextModelWithProjection
    if pools:
        module = assemble(part, _build_pooling, device=device, dtype=dtype)
    else:
        module = assemble(part, _build, device=device, dtype=dtype)
    num_words = vocabulary.tokenizer.get_vocab_size()
    if num_words > module.config.vocab_size:
        problem = f"{part.name} embeds {module.config.vocab_size} tokens of {num_words}"
        raise CheckpointInvalid(part.source, problem)
    return TextEncoder(module, vocabulary, fingerprint=fingerprint)


def _join(states: Tensor, places: Sequence[int], num_windows: int) -> Tensor:
    """Return the windows at ``places`` of [N, 77, D] in a row, [1, 77 * n, D]; zeros for none."""
    if not places:
        return states.new_zeros(1, num_windows * states.shape[1], states.shape[2])
    return states[list(places)].flatten(0, 1)[None]


def _config(config: dict[str, object]) -> CLIPTextConfig:
    return CLIPTextConfig.from_dict({key: config[key] for key in _CONFIG_KEYS if key in config})


def _build(config: dict[str, object]) -> CLIPTextModel:
    return CLIPTextModel(_config(config))


def _build_pooling(config: dict[str, object]) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_config(config))

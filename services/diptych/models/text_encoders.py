"""Prompts to embeddings, as diffusers' SDXL pipelines make them, for many requests at once."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diptych.digest import Digest
from diptych.errors import CheckpointInvalid, FieldViolation, InvalidRequest, PromptTooLong
from diptych.models.assembly import assemble, require_class
from diptych.models.parts import Part
from diptych.models.vocabulary import Vocabulary

__all__ = [
    "PromptEmbeds",
    "PromptRow",
    "RowPlan",
    "TextEncoder",
    "TextEncoders",
    "TextVariant",
    "Using",
    "Window",
    "load_text_encoder",
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextVariant:
    """What adapters make of one request's texts: tokens of their own, and changed weights.

    Tokens are looked up here and nowhere else, so two variants may give one text two meanings;
    tokenizer and embedding table stay as they are.
    """

    tokens: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Learned vectors [n, D] by encoder's name and the text that stands for them."""
    weights: object = None
    """What ``Using`` makes of it; the encoder itself does not look."""
    identity: tuple[str, ...] | None = None
    """Names everything that ``weights`` does; None where nothing does, which no key can tell."""

    def ids(self, encoder: str) -> dict[str, range]:
        """Return ids for the tokens of an encoder: below zero, as its vocabulary has none such."""
        vectors = self.tokens.get(encoder, {})
        ends = list(accumulate(len(found) for found in vectors.values()))
        return {
            token: range(-1 - end + len(vectors[token]), -1 - end, -1)
            for token, end in zip(vectors, ends, strict=True)
        }

    def vector(self, encoder: str, token_id: int) -> Tensor:
        """Return the vector [D] of an id below zero."""
        return torch.cat(list(self.tokens[encoder].values()))[-1 - token_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What an encoder sees at once: token ids, those below zero of the variant."""

    ids: tuple[int, ...]
    variant: TextVariant | None = None
    clip_skip: int = 0
    """Layers left out beyond the last."""


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
    variant: TextVariant | None = None
    clip_skip: int = 0
    """Layers left out beyond the last, as diffusers counts them; 0 is its None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """What a UNet is told of one text, in the encoders' dtype on their device."""

    hidden: Tensor
    """[1, 77 * num_windows, D]: penultimate hidden states, both encoders' joined; earlier ones
    where a row skips layers."""
    pooled: Tensor
    """[1, P]: the last encoder's pooled embedding of the first window."""


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

    @property
    def name(self) -> str:
        """Return ``text_encoder`` or, for the one that pools, ``text_encoder_2``."""
        return "text_encoder_2" if self.pools else "text_encoder"

    @torch.inference_mode()
    def encode(
        self, windows: Sequence[Window], using: "Using | None" = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return hidden states [N, 77, D] and, if this encoder pools, the pooled ones [N, P]."""
        hidden: list[Tensor] = []
        pooled: list[Tensor] = []
        for start in range(0, len(windows), _MAX_WINDOWS_PER_CALL):
            piece = windows[start : start + _MAX_WINDOWS_PER_CALL]
            ids = torch.tensor([window.ids for window in piece], device=self.device)
            weights = nullcontext() if using is None else using(self, [w.variant for w in piece])
            with self._lock, weights, self._learned(piece):
                output = self.module(ids.clamp(min=0), output_hidden_states=True)
            hidden.append(_chosen(output.hidden_states, piece))
            if self.pools:
                pooled.append(output.text_embeds)
        return torch.cat(hidden), torch.cat(pooled) if self.pools else None

    @contextmanager
    def _learned(self, windows: Sequence[Window]) -> Iterator[None]:
        """Let the embeddings at ids below zero be the variants' vectors."""
        places = [
            (row, column, window.variant.vector(self.name, token_id))
            for row, window in enumerate(windows)
            for column, token_id in enumerate(window.ids)
            if token_id < 0 and window.variant is not None
        ]
        if not places:
            yield
            return
        rows, columns, vectors = zip(*places, strict=True)
        values = torch.stack(vectors).to(self.device, self.dtype)
        where = tuple(torch.tensor(index, device=self.device) for index in (rows, columns))

        def replace(_: nn.Module, __: object, embeddings: Tensor) -> Tensor:
            return embeddings.index_put(where, values)

        hook = self.module.get_input_embeddings().register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()


Using = Callable[[TextEncoder, Sequence[TextVariant | None]], AbstractContextManager[None]]
"""Lets the rows of one call of an encoder see their variants' weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """What becomes of one row."""

    num_windows: int
    num_text_windows: int
    """Those that its text fills."""
    ids: tuple[list[int], ...] | None = None
    """Token ids per encoder; None for zeros."""


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

    @property
    def pooled_dim(self) -> int:
        """Width P of the pooled embedding."""
        width = self.encoders[-1].module.config.projection_dim
        assert width is not None, "the one that pools projects"
        return width

    @property
    def dtype(self) -> torch.dtype:
        """What they compute in."""
        return self.encoders[-1].dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.encoders[-1].device

    @property
    def window_tokens(self) -> int:
        """Tokens of one window of hidden states."""
        return self.encoders[-1].vocabulary.window

    def num_windows(self, row: PromptRow) -> int:
        """Return how many windows ``row`` fills: 1, or more for a long text with ``chunk``.

        Raises:
            PromptTooLong: the text is longer than one window and ``long_prompt`` is ``error``.
            InvalidRequest: it skips more layers than an encoder has.
        """
        return self.plan(row).num_windows

    def encode(self, rows: Sequence[PromptRow], using: Using | None = None) -> list[PromptEmbeds]:
        """Return one embedding per row; equal windows of text are computed once.

        Args:
            rows: The texts.
            using: Applies the weights of the rows' variants; None leaves them out.

        Raises:
            PromptTooLong: as ``num_windows``, for the first such row; nothing is computed then.
            InvalidRequest: likewise.
        """
        plans = [self.plan(row) for row in rows]
        hidden: list[list[Tensor]] = [[] for _ in rows]
        pooled: list[Tensor] = []
        for position, encoder in enumerate(self.encoders):
            windows = [
                _windows(encoder.vocabulary, plan.ids[position], plan.num_windows, row)
                if plan.ids is not None
                else []
                for row, plan in zip(rows, plans, strict=True)
            ]
            distinct = list(dict.fromkeys(window for row in windows for window in row))
            places = {window: place for place, window in enumerate(distinct)}
            # With nothing but zeros wanted, one empty window still tells their shape.
            empty = _windows(encoder.vocabulary, [], 1, PromptRow(text=""))
            states, pools = encoder.encode(distinct or empty, using)
            for own, plan, row_windows in zip(hidden, plans, windows, strict=True):
                found = [places[window] for window in row_windows]
                own.append(_join(states, found, plan.num_windows))
            if pools is not None and encoder is self.encoders[-1]:
                pooled = [
                    pools[places[row[0]]][None] if row else torch.zeros_like(pools[:1])
                    for row in windows
                ]
        return [
            PromptEmbeds(hidden=torch.cat(states, dim=-1), pooled=pool)
            for states, pool in zip(hidden, pooled, strict=True)
        ]

    def plan(self, row: PromptRow) -> RowPlan:
        """Return what becomes of a row; raises what ``num_windows`` does."""
        if row.text is None and self.zeros_for_none:
            return RowPlan(num_windows=row.min_windows, num_text_windows=1)
        self._check_skip(row)
        tokens = [
            encoder.vocabulary.tokenize(
                row.text or "", row.variant.ids(encoder.name) if row.variant is not None else None
            )
            for encoder in self.encoders
        ]
        limit = min(encoder.vocabulary.num_content for encoder in self.encoders)
        ids, begins = max(tokens, key=lambda item: len(item[0]))
        if len(ids) > limit and row.long_prompt == "error":
            cut = (row.text or "")[begins[limit] :]
            raise PromptTooLong(field=row.field, num_tokens=len(ids), limit=limit, cut_text=cut)
        filled = max(1, -(-len(ids) // limit)) if row.long_prompt == "chunk" else 1
        return RowPlan(
            num_windows=max(filled, row.min_windows),
            num_text_windows=filled,
            ids=tuple(ids[: filled * limit] for ids, _ in tokens),
        )

    def _check_skip(self, row: PromptRow) -> None:
        most = min(encoder.module.config.num_hidden_layers for encoder in self.encoders) - 1
        if not 0 <= row.clip_skip <= most:
            description = (
                f"{row.clip_skip} layers cannot be skipped, the encoders allow 0 to {most}"
            )
            raise InvalidRequest([FieldViolation(field="clip_skip", description=description)])


def load_text_encoder(
    part: Part,
    vocabulary: Vocabulary,
    *,
    device: torch.device,
    dtype: torch.dtype,
    fingerprint: str,
    keep_rows: bool = True,
) -> TextEncoder:
    """Return the text encoder that ``part`` describes: ``text_encoder_2`` is the one that pools.

    ``keep_rows`` is as ``assemble`` has it.

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
        module = assemble(part, _build_pooling, device=device, dtype=dtype, keep_rows=keep_rows)
    else:
        module = assemble(part, _build, device=device, dtype=dtype, keep_rows=keep_rows)
    num_words = vocabulary.tokenizer.get_vocab_size()
    if num_words > module.config.vocab_size:
        problem = f"{part.name} embeds {module.config.vocab_size} tokens of {num_words}"
        raise CheckpointInvalid(part.source, problem)
    return TextEncoder(module, vocabulary, fingerprint=fingerprint)


def _windows(
    vocabulary: Vocabulary, ids: Sequence[int], num_windows: int, row: PromptRow
) -> list[Window]:
    return [
        Window(ids=window, variant=row.variant, clip_skip=row.clip_skip)
        for window in vocabulary.windows(ids, num_windows)
    ]


def _chosen(states: Sequence[Tensor], windows: Sequence[Window]) -> Tensor:
    """Return of every layer's states [N, 77, D] those that each window asks for."""
    if not any(window.clip_skip for window in windows):
        return states[-2]
    return torch.stack([states[-2 - w.clip_skip][row] for row, w in enumerate(windows)])


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

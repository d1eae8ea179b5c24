"""Cross-attention whose rows remember the keys and values of their texts.

A trajectory's text is the same in all its steps and so are its adapters, so what a UNet makes of
it is computed once, whoever else is in the batch. On a CPU and a small UNet that saves a seventh
of a forward. A large one would remember gigabytes to save a hundredth.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeGuard

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

__all__ = ["RowText", "TextMemory", "remember_text"]

_MAX_TOKEN_BYTES: Final = 64 * 2**10
"""Keys and values of one token in all layers; SDXL's are ten times as much in float32."""


class RowText:
    """What one UNet makes of one row's text; it lasts as long as whoever keeps it for the row."""

    def __init__(self) -> None:
        self.keys_values: tuple[tuple[Tensor, Tensor], ...] | None = None
        """[T, D] each, by cross-attention; None until they are projected."""


class TextMemory:
    """The cross-attentions of one UNet; owned by the thread that calls it."""

    def __init__(self, attentions: Sequence[Attention]) -> None:
        self._attentions = tuple(attentions)
        self._rows: Sequence[RowText] | None = None
        for number, attention in enumerate(attentions):
            attention.set_processor(_RememberingProcessor(self, number))

    def project(self, hidden: Tensor, rows: Sequence[RowText]) -> None:
        """Let each of ``rows`` remember its text, of hidden states [B, T, E].

        ``to_k`` and ``to_v`` are called as modules, so whatever wraps them takes part.
        """
        found = [(attn.to_k(hidden), attn.to_v(hidden)) for attn in self._attentions]
        for row, text in enumerate(rows):
            # Copies: a view would keep all rows for as long as one of them is there.
            text.keys_values = tuple((key[row].clone(), value[row].clone()) for key, value in found)

    @contextmanager
    def using(self, rows: Sequence[RowText]) -> Iterator[None]:
        """Let forwards within attend to what ``rows`` remember, one of them for each of theirs."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def keys_values(self, number: int) -> tuple[Tensor, Tensor] | None:
        """Return those [B, T, D] of one cross-attention; None outside of ``using``."""
        if self._rows is None:
            return None
        pairs = [text.keys_values[number] for text in self._rows if text.keys_values is not None]
        assert len(pairs) == len(self._rows)
        return torch.stack([key for key, _ in pairs]), torch.stack([value for _, value in pairs])


class _RememberingProcessor:
    """Attention as ``AttnProcessor2_0`` computes it, with keys and values from a memory."""

    def __init__(self, memory: TextMemory, number: int) -> None:
        self._memory, self._number = memory, number

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return [B, N, D] for latents [B, N, D] that attend to text [B, T, E]."""
        assert attention_mask is None
        assert temb is None
        remembered = self._memory.keys_values(self._number)
        key, value = remembered or (
            attn.to_k(encoder_hidden_states),
            attn.to_v(encoder_hidden_states),
        )
        query, key, value = (
            _heads(rows, attn.heads) for rows in (attn.to_q(hidden_states), key, value)
        )
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        joined = attended.transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[0](joined)
        return projected


def remember_text(unet: UNet2DConditionModel) -> TextMemory | None:
    """Let the cross-attentions of ``unet`` take keys and values from the memory that is returned.

    Those that are not plain keep their processor. Returns None, and changes nothing, if a text
    would take too much memory.
    """
    plain = [module for module in unet.modules() if _is_plain_cross_attention(module)]
    weights = [weight for attn in plain for weight in (attn.to_k.weight, attn.to_v.weight)]
    token_bytes = sum(len(weight) * weight.element_size() for weight in weights)
    return TextMemory(plain) if token_bytes <= _MAX_TOKEN_BYTES else None


def _is_plain_cross_attention(module: torch.nn.Module) -> TypeGuard[Attention]:
    """Return whether ``module`` is a transformer block's attention to text, without extras."""
    return (
        isinstance(module, Attention)
        and module.is_cross_attention
        and type(module.processor) is AttnProcessor2_0
        and module.norm_q is None
        and module.norm_k is None
        and not module.norm_cross
        and not module.residual_connection
        and module.rescale_output_factor == 1.0
    )


def _heads(rows: Tensor, num_heads: int) -> Tensor:
    """Return [B, heads, N, D / heads] of [B, N, D]."""
    num_rows, length, width = rows.shape
    return rows.view(num_rows, length, num_heads, width // num_heads).transpose(1, 2)

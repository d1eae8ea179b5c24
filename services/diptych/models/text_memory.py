"""Cross-attention that remembers the keys and values of the text it saw last.

A trajectory's text is the same in all its steps, so a batch whose rows stay together need not
project it again. On a CPU and a small UNet that is a seventh of a forward.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

__all__ = ["forget_text", "remember_text"]


class _RememberingProcessor:
    """Attention as ``AttnProcessor2_0`` computes it, for text that is known by identity.

    The tensor of hidden states must not be changed in place. ``to_k`` and ``to_v`` are called as
    modules, so whatever wraps them takes part; ``forget_text`` when that makes something else of
    the same text.
    """

    def __init__(self) -> None:
        self.text: Tensor | None = None
        self._keys_values: tuple[Tensor, Tensor] | None = None

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
        if self._keys_values is None or self.text is not encoder_hidden_states:
            self._keys_values = (
                _heads(attn.to_k(encoder_hidden_states), attn.heads),
                _heads(attn.to_v(encoder_hidden_states), attn.heads),
            )
            self.text = encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        attended = torch.nn.functional.scaled_dot_product_attention(query, *self._keys_values)
        joined = attended.transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[0](joined)
        return projected

    def forget(self) -> None:
        """Drop what is remembered."""
        self.text = self._keys_values = None


def remember_text(unet: UNet2DConditionModel) -> None:
    """Let every cross-attention of ``unet`` remember its text; others keep their processor."""
    for module in unet.modules():
        if _is_plain_cross_attention(module):
            module.set_processor(_RememberingProcessor())


def forget_text(unet: UNet2DConditionModel) -> None:
    """Drop all remembered keys and values, as weights that made them have changed."""
    for module in unet.modules():
        if isinstance(module, Attention) and isinstance(module.processor, _RememberingProcessor):
            module.processor.forget()


def _is_plain_cross_attention(module: torch.nn.Module) -> bool:
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

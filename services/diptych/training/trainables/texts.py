"""Prompts through encoders that are trained: inference's embeddings, with gradients."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from diptych.models.text_encoders import PromptRow, TextEncoders

__all__ = ["TrainedTexts"]


class TrainedTexts(nn.Module):
    """The encoders of one expert; what they make of a text is what ``TextEncoders`` makes of it.

    Start, end and padding are in every window, and a text that is None is zeros where the
    checkpoint says so, else the empty text, as where no negative prompt was given.
    """

    def __init__(
        self,
        encoders: TextEncoders,
        *,
        long_prompt: Literal["truncate", "chunk"] = "truncate",
        recompute: bool = False,
    ) -> None:
        """Take what is to be trained.

        Args:
            encoders: Made to be trained.
            long_prompt: What becomes of texts beyond one window.
            recompute: Whether gradients compute an encoder again instead of keeping its layers'
                outputs. They are asked for last, when the UNet's own are free again.
        """
        super().__init__()
        self._encoders = encoders
        self._long_prompt = long_prompt
        self._recompute = recompute
        for encoder in encoders.encoders:
            self.add_module(encoder.name, encoder.module)

    @override
    def forward(self, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, 77 * num_windows, D] and pooled ones [B, P].

        All rows have as many windows as the longest. Every encoder reads every row, also those
        that become zeros: so all processes of a group have gradients of all weights.
        """
        rows = [PromptRow(text=text, long_prompt=self._long_prompt) for text in texts]
        plans = [self._encoders.plan(row) for row in rows]
        num_windows = max(plan.num_windows for plan in plans)
        is_told = torch.tensor([plan.ids is not None for plan in plans]).to(self._encoders.device)
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        for position, encoder in enumerate(self._encoders.encoders):
            windows = [
                window
                for plan in plans
                for window in encoder.vocabulary.windows(
                    [] if plan.ids is None else plan.ids[position], num_windows
                )
            ]
            ids = torch.tensor(windows, device=encoder.device)
            if self._recompute:
                states, pools = checkpoint(_read, encoder.module, ids, use_reentrant=False)
            else:
                states, pools = _read(encoder.module, ids)
            hidden.append(states.reshape(len(rows), -1, states.shape[-1]))
            if encoder.pools:
                pooled = pools.view(len(rows), num_windows, -1)[:, 0]
        assert pooled is not None
        joined = torch.cat(hidden, dim=-1)
        return (
            torch.where(is_told[:, None, None], joined, torch.zeros_like(joined)),
            torch.where(is_told[:, None], pooled, torch.zeros_like(pooled)),
        )


def _read(module: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return penultimate hidden states [N, 77, D] and, of the encoder that pools, [N, P]."""
    output = module(ids, output_hidden_states=True)
    return output.hidden_states[-2], getattr(output, "text_embeds", None)

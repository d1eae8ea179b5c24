"""What a network is told of the pictures it is trained on, besides the noisy latents."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Conditions"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """One batch's; either ``prompt_embeds`` and ``pooled`` are there, or ``texts``."""

    prompt_embeds: Tensor | None
    """[B, T, D]: hidden states of both encoders, joined."""
    pooled: Tensor | None
    """[B, P]."""
    time_ids: Tensor
    """[B, 6], or [B, 5] with an aesthetic score; float32 whatever the network computes in."""
    texts: tuple[str | None, ...] | None
    """Where text encoders are trained; None among them is a caption that was dropped."""

    def to(self, device: torch.device) -> "Conditions":
        """Return the same on ``device``."""
        return replace(
            self,
            prompt_embeds=_moved(self.prompt_embeds, device),
            pooled=_moved(self.pooled, device),
            time_ids=self.time_ids.to(device, non_blocking=True),
        )


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)

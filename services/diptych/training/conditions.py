"""What the network is told of a batch's images."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Conditions"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """One batch's conditions: embeddings from the cache, or texts where encoders are trained."""

    prompt_embeds: Tensor | None = None
    """[B, T, D]; None where encoders are trained."""
    pooled: Tensor | None = None
    """[B, P]; None where encoders are trained."""
    time_ids: Tensor
    """[B, 5 or 6] float32, never half."""
    texts: tuple[str | None, ...] | None = None
    """By row; None in a row is the unconditional branch without a negative prompt."""

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

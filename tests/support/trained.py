"""What jobs on the nano model train, and batches for it."""

from pathlib import Path
from typing import Any

import torch

from diptych.training.conditions import Conditions
from diptych.training.experts import expert_plans
from diptych.training.spec import JobSpec
from diptych.training.trainables.loading import load_trainable
from diptych.training.trainables.trained_expert import TrainedExpert

__all__ = ["TIME_IDS", "Batch", "batch_of", "load", "one_step"]

TIME_IDS = (301.0, 777.0, 13.0, 5.0, 1333.0, 128.0)
Batch = tuple[torch.Tensor, torch.Tensor, Conditions]


def load(spec: JobSpec, cache_dir: Path, *, place: int = 0, **more: Any) -> TrainedExpert:
    """Return the job's expert at ``place``, on the CPU."""
    plan = expert_plans(spec)[place]
    return load_trainable(spec, plan, device="cpu", cache_dir=cache_dir, **more)


def batch_of(*texts: str | None, seed: int = 0, side: int = 8) -> Batch:
    """Return noisy latents, timesteps and conditions: embeddings, or ``texts`` where given."""
    generator = torch.Generator().manual_seed(seed)
    size = len(texts) or 2
    told: dict[str, Any] = {"texts": tuple(texts)} if texts else {}
    if not texts:
        told["prompt_embeds"] = torch.randn(size, 77, 128, generator=generator)
        told["pooled"] = torch.randn(size, 64, generator=generator)
    return (
        torch.randn(size, 4, side, side, generator=generator),
        torch.randint(0, 1000, (size,), generator=generator),
        Conditions(time_ids=torch.tensor([TIME_IDS] * size), **told),
    )


def one_step(trained: TrainedExpert, batch: Batch, *, lr: float = 1e-3) -> torch.Tensor:
    """Take one step of Adam towards predicting ones and return the loss."""
    parameters = [one for group in trained.groups for one in group.parameters]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    loss = (trained.predict(*batch) - 1.0).square().mean()
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()

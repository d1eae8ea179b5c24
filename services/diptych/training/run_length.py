"""How many optimizer steps a job takes of one expert."""

from collections.abc import Mapping

from diptych.datasets.plan import Plan
from diptych.datasets.sampling import Sampler, SamplerConfig
from diptych.training.spec import JobSpec

__all__ = ["count_steps", "sampler_config"]


def sampler_config(spec: JobSpec, *, rank: int, num_ranks: int) -> SamplerConfig:
    """Return what a job wants of the order of its batches."""
    return SamplerConfig(
        seed=spec.dataset.seed,
        num_epochs=spec.run.num_epochs,
        is_weighted=spec.dataset.draw == "weighted",
        rank=rank,
        num_ranks=num_ranks,
        num_accumulated=spec.run.num_accumulated,
    )


def count_steps(spec: JobSpec, plans: Mapping[str, Plan], *, num_ranks: int) -> int:
    """Return how many steps there are: as many as asked for, or as long as there are images.

    Raises:
        DatasetInvalid: There is nothing to train on at the first step.
    """
    limit = spec.run.num_steps
    config = sampler_config(spec, rank=0, num_ranks=num_ranks)
    sampler = Sampler(plans, config)
    sampling = [one.spec.sampling for one in plans.values() if len(one) and one.spec.kind != "eval"]
    if limit is not None and any(
        one.end_epoch is None and one.end_step is None and one.start_epoch == 1 for one in sampling
    ):
        return limit
    num_batches, epoch = 0, 1
    last_start = max(one.start_epoch for one in sampling)
    while config.num_epochs is None or epoch <= config.num_epochs:
        found = sampler.num_batches(epoch, num_before=num_batches)
        if not found and epoch > last_start:
            break
        num_batches, epoch = num_batches + found, epoch + 1
        if limit is not None and num_batches >= limit * config.batches_per_step:
            return limit
    return -(-num_batches // config.batches_per_step)

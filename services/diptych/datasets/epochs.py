"""The order of one epoch: which images make each batch, and which dataset comes when.

An epoch sees every image of every dataset that is active as often as ``repeats`` says; the last
batch of a bucket is filled with images drawn once more. ``probability`` says how datasets mix while
they last. Every draw is named by seed, epoch and dataset, so one dataset's order does not depend
on what others there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.datasets.draws import drawn_order, drawn_shares
from diptych.datasets.plan import Bucket, Plan
from diptych.datasets.spec import SamplingSpec

__all__ = ["DatasetOrder", "EpochOrder", "dataset_order", "epoch_order", "is_active"]

Numbers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOrder:
    """One epoch's batches of one dataset, in order."""

    bucket: Numbers
    """Of each batch [B]."""
    rows: Numbers
    """The plan's rows [B, S] of its images."""
    repeats: Numbers
    """Which of the times [B, S] that the epoch sees the image."""

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self.bucket)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochOrder:
    """One epoch's batches of all datasets, in order."""

    names: Sequence[str]
    datasets: Mapping[str, DatasetOrder]
    dataset: Numbers
    """Of each batch [T], a number in ``names``."""
    number: Numbers
    """Which of its dataset's batches [T]."""

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self.dataset)


def dataset_order(plan: Plan, *, seed: int, epoch: int) -> DatasetOrder:
    """Return the batches in which an epoch sees a dataset's images."""
    name = plan.spec.id
    found = [_bucket_batches(plan, bucket, (seed, epoch, name)) for bucket in plan.buckets]
    if not found:
        empty = np.zeros((0, plan.batch_size), dtype=np.int32)
        return DatasetOrder(bucket=np.zeros(0, dtype=np.int32), rows=empty, repeats=empty)
    rows = np.concatenate([batches for batches, _ in found])
    repeats = np.concatenate([times for _, times in found])
    bucket = np.repeat(np.arange(len(found), dtype=np.int32), [len(one) for one, _ in found])
    order = drawn_order(len(rows), "batches", seed, epoch, name)
    return DatasetOrder(bucket=bucket[order], rows=rows[order], repeats=repeats[order])


def _bucket_batches(
    plan: Plan, bucket: Bucket, drawn_for: tuple[int, int, str]
) -> tuple[Numbers, Numbers]:
    """Return rows and repeats [B, S] of a bucket's batches, each repeat in an order of its own."""
    count, repeats = len(bucket.rows), plan.spec.sampling.repeats
    size = [bucket.width, bucket.height]
    wanted = count * repeats + bucket.num_filled
    passes = -(-wanted // count)
    orders = [drawn_order(count, "images", *drawn_for, *size, time) for time in range(passes)]
    rows = bucket.rows[np.concatenate(orders)[:wanted]].astype(np.int32)
    # What fills a batch is seen as it was before, so that nothing more has to be encoded.
    times = (np.arange(wanted, dtype=np.int32) // count) % repeats
    return rows.reshape(-1, plan.batch_size), times.reshape(-1, plan.batch_size)


def is_active(sampling: SamplingSpec, *, epoch: int, step: int) -> bool:
    """Return whether a dataset is drawn from in an epoch and at a step, both from 1."""
    is_step = sampling.start_step <= step <= (sampling.end_step or step)
    return is_step and _is_in_epoch(sampling, epoch)


def _is_in_epoch(sampling: SamplingSpec, epoch: int) -> bool:
    return sampling.start_epoch <= epoch <= (sampling.end_epoch or epoch)


def epoch_order(
    plans: Mapping[str, Plan],
    *,
    is_weighted: bool,
    seed: int,
    epoch: int,
    num_before: int,
    batches_per_step: int,
) -> EpochOrder:
    """Return the order of an epoch's batches.

    Args:
        plans: What is trained on, by id.
        is_weighted: Whether a dataset's weight grows with its images, or is its probability alone.
        seed: The run's.
        epoch: From 1.
        num_before: Batches that the run had before this epoch: which step it begins at.
        batches_per_step: Of all ranks and accumulations together.
    """
    drawing = _Drawing(plans, is_weighted=is_weighted, epoch=epoch)
    orders = {name: dataset_order(plans[name], seed=seed, epoch=epoch) for name in drawing.names}
    left = [len(orders[name]) for name in drawing.names]
    dataset: list[int] = []
    for share in drawn_shares(sum(left), "datasets", seed, epoch).tolist():
        step = (num_before + len(dataset)) // batches_per_step + 1
        chosen = drawing.chosen(share, left, step)
        if chosen is None:
            break
        left[chosen] -= 1
        dataset.append(chosen)
    found = np.array(dataset, dtype=np.int32)
    return EpochOrder(
        names=drawing.names, datasets=orders, dataset=found, number=_numbered(found, len(left))
    )


def _numbered(dataset: Numbers, count: int) -> Numbers:
    """Return how many batches of the same dataset come before each."""
    number = np.zeros(len(dataset), dtype=np.int32)
    for one in range(count):
        own = dataset == one
        number[own] = np.arange(own.sum(), dtype=np.int32)
    return number


class _Drawing:
    """Draws datasets that have batches left, by their weights."""

    def __init__(self, plans: Mapping[str, Plan], *, is_weighted: bool, epoch: int) -> None:
        self.names: Final = [
            name
            for name, plan in sorted(plans.items())
            if len(plan) and _is_in_epoch(plan.spec.sampling, epoch)
        ]
        self._sampling = [plans[name].spec.sampling for name in self.names]
        self._weights = [
            plans[name].spec.sampling.probability * (len(plans[name]) if is_weighted else 1)
            for name in self.names
        ]
        self._epoch = epoch
        self._step = 0
        self._now: list[float] = []

    def chosen(self, share: float, left: Sequence[int], step: int) -> int | None:
        """Return the dataset that ``share`` of the weights points at, None where none is left."""
        if step != self._step:
            self._step = step
            self._now = [
                weight if is_active(one, epoch=self._epoch, step=step) else 0.0
                for weight, one in zip(self._weights, self._sampling, strict=True)
            ]
        reach = [weight if has else 0.0 for weight, has in zip(self._now, left, strict=True)]
        point = share * sum(reach)
        last = None
        for number, weight in enumerate(reach):
            if weight > 0:
                last = number
                if point < weight:
                    return number
                point -= weight
        return last

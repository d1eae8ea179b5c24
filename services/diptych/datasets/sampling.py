"""The order of a training run: one stream of batches, the same for every number of machines.

Batches stand in one order that follows from the seed; a rank takes every so-manieth of it, so ranks
never overlap and a run may go on with another number of them. Where it stands is three numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from diptych.datasets.captions import drawn_caption
from diptych.datasets.draws import drawn_words, share_of
from diptych.datasets.epochs import EpochOrder, epoch_order, is_active
from diptych.datasets.index import IndexEntry
from diptych.datasets.plan import Plan
from diptych.datasets.sizing import MicroConditions
from diptych.embeddings.key import Preprocessing
from diptych.errors import DatasetInvalid, FieldViolation

__all__ = [
    "Batch",
    "Position",
    "Sample",
    "Sampler",
    "SamplerConfig",
    "Step",
    "held_out",
    "mask_preprocessing",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """What a run wants of its order."""

    seed: int = 0
    num_epochs: int | None = None
    """None ends where no dataset is active any more, mostly never."""
    is_weighted: bool = True
    """Whether datasets are drawn by probability and number of images: a manifest's ``draw``."""
    rank: int = 0
    num_ranks: int = 1
    num_accumulated: int = 1
    """Batches that one rank takes for one step."""

    @property
    def batches_per_step(self) -> int:
        """Return how many batches all ranks take for one step."""
        return self.num_ranks * self.num_accumulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands; the same for all its ranks."""

    epoch: int = 1
    batch: int = 0
    """Of the epoch, the next that is drawn."""
    num_before: int = 0
    """Batches of all epochs before this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image as a batch sees it."""

    entry: IndexEntry
    caption: str
    """The one that was drawn of the entry's; empty where it was dropped."""
    preprocessing: Preprocessing
    conditions: MicroConditions
    repeat: int
    """Which of the times that the epoch sees the image, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images of one bucket of one dataset."""

    dataset: str
    is_regularisation: bool
    width: int
    height: int
    samples: tuple[Sample, ...]
    uses_masks: bool
    """Whether masks weigh this batch's loss; a sample without one counts whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one rank trains on in one step."""

    number: int
    """From 1."""
    epoch: int
    """Of its first batch; a step may reach into the next."""
    batches: tuple[Batch, ...]
    after: Position
    """Where a run goes on that has done this step."""


class Sampler:
    """The steps of one rank.

    Only where datasets begin or end at a step does the order depend on how many batches a step has.
    """

    def __init__(self, plans: Mapping[str, Plan], config: SamplerConfig) -> None:
        """Take the plans of a run; those of evaluation sets are passed over.

        Raises:
            DatasetInvalid: No image is to be seen at the run's first step.
        """
        self._plans = {name: one for name, one in plans.items() if one.spec.kind != "eval"}
        self._config = config
        sampling = [one.spec.sampling for one in self._plans.values() if len(one)]
        if not any(is_active(one, epoch=1, step=1) for one in sampling):
            problem = "no dataset has images to train on in epoch 1 at step 1"
            raise DatasetInvalid([FieldViolation(field="datasets", description=problem)])
        self._last_start: Final = max(one.start_epoch for one in sampling)

    def steps(self, start: Position | None = None) -> Iterator[Step]:
        """Yield this rank's steps from ``start``, or from the beginning.

        The run's last step is filled from the beginning of its last epoch.
        """
        config, size = self._config, self._config.batches_per_step
        position = start or Position()
        batches = self._stream(position)
        while taken := [one for _, one in zip(range(size), batches, strict=False)]:
            own = taken[config.rank :: config.num_ranks]
            after = taken[-1][2]
            yield Step(
                number=(position.num_before + position.batch) // size + 1,
                epoch=taken[0][0].epoch_number,
                batches=tuple(self._batch(order, number) for order, number, _ in own),
                after=after,
            )
            position = after

    def num_batches(self, epoch: int, *, num_before: int = 0) -> int:
        """Return how many batches an epoch has that begins after ``num_before``."""
        return len(self._order(epoch, num_before).order)

    def _stream(self, start: Position) -> Iterator["tuple[_Epoch, int, Position]"]:
        """Yield every batch's epoch and number there, and the position after it."""
        position, seen = start, None
        last = self._config.num_epochs
        while last is None or position.epoch <= last:
            found = self._order(position.epoch, position.num_before)
            length = len(found.order)
            if length:
                seen = found
            elif position.epoch > self._last_start:
                break
            for number in range(position.batch, length):
                yield found, number, replace(position, batch=number + 1)
            position = Position(epoch=position.epoch + 1, num_before=position.num_before + length)
        if seen is not None:
            count = position.num_before - start.num_before - start.batch
            for number in range(-count % self._config.batches_per_step):
                yield seen, number % len(seen.order), position

    def _order(self, epoch: int, num_before: int) -> "_Epoch":
        order = epoch_order(
            self._plans,
            is_weighted=self._config.is_weighted,
            seed=self._config.seed,
            epoch=epoch,
            num_before=num_before,
            batches_per_step=self._config.batches_per_step,
        )
        return _Epoch(epoch_number=epoch, order=order)

    def _batch(self, found: "_Epoch", place: int) -> Batch:
        order, epoch = found.order, found.epoch_number
        name = order.names[order.dataset[place]]
        plan, own, number = self._plans[name], order.datasets[name], order.number[place]
        bucket = plan.buckets[own.bucket[number]]
        rows = zip(own.rows[number].tolist(), own.repeats[number].tolist(), strict=True)
        masks = plan.spec.masks
        word = drawn_words("masks", self._config.seed, epoch, name, int(number))[0]
        return Batch(
            dataset=name,
            is_regularisation=plan.spec.kind == "regularisation",
            width=bucket.width,
            height=bucket.height,
            samples=tuple(self._sample(plan, row, epoch, repeat) for row, repeat in rows),
            uses_masks=masks is not None and share_of(word) < masks.probability,
        )

    def _sample(self, plan: Plan, row: int, epoch: int, repeat: int) -> Sample:
        entry = plan.index[plan.place(row)]
        caption = drawn_caption(
            entry.captions,
            dropout=plan.spec.captions.dropout,
            image=entry.image,
            seed=self._config.seed,
            epoch=epoch,
            repeat=repeat,
        )
        return _sample(plan, row, entry, caption, epoch=epoch, repeat=repeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """An epoch's number and its order."""

    epoch_number: int
    order: EpochOrder


def held_out(plan: Plan, *, batch_size: int) -> Iterator[Batch]:
    """Yield an evaluation set: every image once, with its first caption, always in one order.

    The last batch of a bucket may be smaller, since an image seen twice would weigh twice.
    """
    for bucket in plan.buckets:
        rows = bucket.rows.tolist()
        for at in range(0, len(rows), batch_size):
            entries = [(row, plan.index[plan.place(row)]) for row in rows[at : at + batch_size]]
            yield Batch(
                dataset=plan.spec.id,
                is_regularisation=False,
                width=bucket.width,
                height=bucket.height,
                samples=tuple(
                    _sample(plan, row, entry, entry.captions[0], epoch=0, repeat=0)
                    for row, entry in entries
                ),
                uses_masks=plan.spec.masks is not None,
            )


def mask_preprocessing(image: Preprocessing) -> Preprocessing:
    """Return what a mask goes through so that it lies on its image as the network sees it."""
    return replace(image, resample="area", colour="ignore")


def _sample(
    plan: Plan, row: int, entry: IndexEntry, caption: str, *, epoch: int, repeat: int
) -> Sample:
    seen = plan.preprocessing(row, epoch=epoch, repeat=repeat)
    return Sample(
        entry=entry,
        caption=caption,
        preprocessing=seen,
        conditions=plan.conditions(row, seen),
        repeat=repeat,
    )

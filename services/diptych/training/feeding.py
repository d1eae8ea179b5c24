"""From the order of a run to batches of tensors, read ahead of the loop.

A batch follows from its number in the run alone, however many threads read ahead and wherever the
run began: which images it has says the sampler, and the draw from each image's posterior comes
from a generator that is named by that number.
"""

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from diptych.clients.obtaining import ImageWanted, PromptWanted
from diptych.datasets.plan import Plan
from diptych.datasets.sampling import Batch, Position, Sample, Sampler, Step
from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities, LatentSpace
from diptych.models.family import Family
from diptych.training.conditions import Conditions
from diptych.training.dataset_files import DatasetFiles
from diptych.training.embedding_reading import EmbeddingSource, Tensors
from diptych.training.keyed_draws import KeyedDraws

__all__ = ["FedBatch", "FedStep", "FeedConfig", "Feeder", "is_dropped"]

AESTHETIC_SCORE: Final = 6.0
NEGATIVE_AESTHETIC_SCORE: Final = 2.5
"""What inference tells a refiner of the conditional and of the unconditional row."""
_NUM_AHEAD: Final = 2
"""Steps that wait beyond those that are being read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedConfig:
    """What of a job decides how its batches look."""

    draws: KeyedDraws
    encoders: EncoderIdentities
    """Of the stage whose embeddings are read."""
    family: Family
    """Of the network that is trained."""
    zeros_when_dropped: bool
    """Whether inference takes zeros for a negative prompt that is not given, as a checkpoint's
    ``force_zeros_for_empty_prompt`` says; else the embedding of the empty text."""
    trains_text: bool = False
    """Whether batches carry texts instead of their embeddings."""
    rank: int = 0
    num_ranks: int = 1
    num_accumulated: int = 1
    num_workers: int = 1
    """Threads that read ahead; 0 reads when the loop asks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FedBatch:
    """What a network is trained on at once."""

    number: int
    """In the run, over all ranks, from 0: it names what is drawn for the batch."""
    latents: Tensor
    """[B, 4, h, w] float32, scaled: a fresh draw from each image's posterior."""
    conditions: Conditions
    mask: Tensor | None
    """[B, 1, h, w] float32 in [0, 1]: how much each latent counts; None where all count alike."""
    is_regularisation: bool
    images: tuple[Digest, ...]

    def __len__(self) -> int:
        """Return how many samples it has."""
        return len(self.images)

    def to(self, device: torch.device) -> "FedBatch":
        """Return the same on ``device``."""
        return replace(
            self,
            latents=self.latents.to(device, non_blocking=True),
            conditions=self.conditions.to(device),
            mask=None if self.mask is None else self.mask.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FedStep:
    """What one rank trains on in one step."""

    number: int
    epoch: int
    batches: tuple[FedBatch, ...]
    after: Position


class Feeder:
    """Makes the steps of one rank; its parts are shared by the threads that read ahead."""

    def __init__(
        self,
        sampler: Sampler,
        plans: Mapping[str, Plan],
        embeddings: EmbeddingSource,
        files: DatasetFiles,
        config: FeedConfig,
    ) -> None:
        self._sampler, self._plans = sampler, plans
        self._embeddings, self._files, self._config = embeddings, files, config

    def steps(self, start: Position | None = None) -> Generator[FedStep]:
        """Yield the steps from ``start`` in order; what a thread raises is raised in its place.

        Raises:
            EmbeddingMissing: One is not there, and its dataset is read-only.
            DiptychError: What the cache raised, or reading an image.
        """
        steps = self._sampler.steps(start)
        num_workers = self._config.num_workers
        if num_workers == 0:
            yield from map(self._fed, steps)
            return
        pool = ThreadPoolExecutor(num_workers, thread_name_prefix="feeding")
        waiting: deque[Future[FedStep]] = deque()
        try:
            for step in islice(steps, num_workers + _NUM_AHEAD):
                waiting.append(pool.submit(self._fed, step))
            while waiting:
                yield waiting.popleft().result()
                for step in islice(steps, 1):
                    waiting.append(pool.submit(self._fed, step))
        finally:
            pool.shutdown(cancel_futures=True)

    def _fed(self, step: Step) -> FedStep:
        config = self._config
        per_step = config.num_ranks * config.num_accumulated
        first = (step.number - 1) * per_step + config.rank
        return FedStep(
            number=step.number,
            epoch=step.epoch,
            batches=tuple(
                self._batch(batch, first + place * config.num_ranks)
                for place, batch in enumerate(step.batches)
            ),
            after=step.after,
        )

    def _batch(self, batch: Batch, number: int) -> FedBatch:
        config, cache = self._config, self._plans[batch.dataset].spec.cache
        samples = batch.samples
        wanted = [self._image_wanted(batch.dataset, sample) for sample in samples]
        posteriors = self._embeddings.tensors(wanted, mode=cache.images)
        return FedBatch(
            number=number,
            latents=draw_latents(
                [posteriors[one.key] for one in wanted],
                config.encoders.latents,
                config.draws.generator("latents", number),
            ),
            conditions=self._conditions(batch),
            mask=self._mask(batch) if batch.uses_masks else None,
            is_regularisation=batch.is_regularisation,
            images=tuple(sample.entry.image for sample in samples),
        )

    def _image_wanted(self, dataset: str, sample: Sample) -> ImageWanted:
        record = self._config.encoders.image_record(sample.entry.image, sample.preprocessing)
        return ImageWanted(
            key=record.key(),
            preprocessing=sample.preprocessing,
            read=partial(self._files.image, dataset, sample.entry),
            label=sample.entry.place,
        )

    def _conditions(self, batch: Batch) -> Conditions:
        ids = [self._time_ids(sample) for sample in batch.samples]
        time_ids = torch.tensor(ids, dtype=torch.float32)
        texts = tuple(None if is_dropped(one) else one.caption for one in batch.samples)
        if self._config.trains_text:
            return Conditions(prompt_embeds=None, pooled=None, time_ids=time_ids, texts=texts)
        found = self._prompts(batch, texts)
        return Conditions(
            prompt_embeds=torch.stack([one["hidden"] for one in found]).float(),
            pooled=torch.stack([one["pooled"] for one in found]).float(),
            time_ids=time_ids,
            texts=None,
        )

    def _prompts(self, batch: Batch, texts: tuple[str | None, ...]) -> list[Tensors]:
        """Return the embedding of each text; of None what inference gives its negative row."""
        config, mode = self._config, self._plans[batch.dataset].spec.cache.prompts
        encoders = config.encoders
        given: dict[str | None, str] = {text: text for text in texts if text is not None}
        if None in texts and not config.zeros_when_dropped:
            given[None] = ""
        keys = {text: encoders.prompt_record(spelt).key() for text, spelt in given.items()}
        wanted = {keys[text]: PromptWanted(key=keys[text], text=given[text]) for text in given}
        found = self._embeddings.tensors(list(wanted.values()), mode=mode) if wanted else {}
        zeros = {
            "hidden": torch.zeros(encoders.window_tokens, encoders.hidden_width),
            "pooled": torch.zeros(encoders.pooled_width),
        }
        return [found[keys[text]] if text in keys else zeros for text in texts]

    def _time_ids(self, sample: Sample) -> tuple[float, ...]:
        seen = sample.conditions
        return self._config.family.time_ids(
            original_size=seen.original_size,
            crop_top_left=seen.crop_top_left,
            target_size=seen.target_size,
            aesthetic_score=NEGATIVE_AESTHETIC_SCORE if is_dropped(sample) else AESTHETIC_SCORE,
        )

    def _mask(self, batch: Batch) -> Tensor | None:
        per_latent = self._config.encoders.latents.pixels_per_latent
        found = [
            self._files.mask(batch.dataset, sample, pixels_per_latent=per_latent)
            for sample in batch.samples
        ]
        if all(mask is None for mask in found):
            return None
        whole = torch.ones(1, batch.height // per_latent, batch.width // per_latent)
        return torch.stack([whole if mask is None else mask for mask in found])


def is_dropped(sample: Sample) -> bool:
    """Return whether a sample's caption was dropped: it is empty, and none of its own is."""
    return not sample.caption and "" not in sample.entry.captions


def draw_latents(
    posteriors: Sequence[Tensors], space: LatentSpace, generator: torch.Generator
) -> Tensor:
    """Return scaled latents [B, 4, h, w] float32: a draw from each posterior, in one order."""
    mean = torch.stack([one["mean"] for one in posteriors]).float()
    std = torch.stack([one["std"] for one in posteriors]).float()
    drawn = mean + std * torch.randn(mean.shape, generator=generator)
    if space.latents_mean:
        drawn = drawn - torch.tensor(space.latents_mean).view(1, -1, 1, 1)
    drawn = drawn * space.scaling_factor
    if space.latents_std:
        drawn = drawn / torch.tensor(space.latents_std).view(1, -1, 1, 1)
    return drawn

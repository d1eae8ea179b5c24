"""Random numbers of a training step, each from a generator that is named by what it is for.

Nothing is drawn in order: what a batch draws follows from the job's seed, its expert and the
batch's number in the run. So a run that goes on from a checkpoint draws what it would have drawn,
and two devices draw what one would that takes twice the batches, without any state to keep.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from diptych.datasets.draws import drawn_words

__all__ = ["KeyedDraws"]

_SEED_BITS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedDraws:
    """The draws of one expert of one job."""

    seed: int
    expert: str

    def generator(self, purpose: str, batch: int) -> Generator:
        """Return a generator on the CPU for one purpose of one batch, counted over the run."""
        return Generator("cpu").manual_seed(self._word(purpose, batch))

    def seed_modules(self, batch: int, device: torch.device) -> None:
        """Let what modules draw for a batch, such as dropout, follow from its number too.

        Layers offer no way to be given a generator, so this is the one place that seeds the
        generators of the process: the CPU's, and that of ``device``.
        """
        word = self._word("modules", batch)
        torch.default_generator.manual_seed(word)
        if device.type == "cuda":
            torch.cuda.manual_seed(word)

    def _word(self, purpose: str, batch: int) -> int:
        words = drawn_words("training", purpose, self.seed, self.expert, batch)
        return words[0] >> (64 - _SEED_BITS)

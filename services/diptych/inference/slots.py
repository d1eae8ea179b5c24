"""The device state of running images, a slot each, and batches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diptych.adapters.row_lines import RowUses
from diptych.diffusion.noise import RowNoise
from diptych.inference.conditions import Conditions
from diptych.inference.route import Route
from diptych.inference.trajectory import Expert
from diptych.models.text_memory import RowText

__all__ = ["Slot", "gather_noise", "gather_state"]


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One running image on the device; owned by the executor.

    Its state is a row of the batch that its last tick computed, so that a set of rows that stays
    together is not copied between ticks.
    """

    route: Route
    conditions: Mapping[Expert, Conditions]
    adapters: Mapping[Expert, RowUses]
    """The lines it uses of each expert's bank."""
    noise: RowNoise
    batch: Tensor
    """[B, 4, C, h, w] float32; one row is this image's (x, x_last, h1, h2)."""
    row: int = 0
    drawn: dict[int, Tensor] = field(default_factory=dict)
    """Noise by evaluation that a failed tick drew and did not use."""
    remembered: tuple[Expert, tuple[RowText, RowText]] | None = None
    """What the UNet it was last in made of its texts."""

    @property
    def latents(self) -> Tensor:
        """Return x, [C, h, w]."""
        return self.batch[self.row, 0]

    def texts(self, expert: Expert) -> tuple[RowText, RowText]:
        """Return what an expert's UNet makes of its prompt and of its negative one.

        What another UNet made of them is dropped.
        """
        if self.remembered is None or self.remembered[0] is not expert:
            self.remembered = (expert, (RowText(), RowText()))
        return self.remembered[1]

    def draw(self, position: int) -> Tensor:
        """Return the solver noise of evaluation ``position`` [C, h, w] on the CPU; drawn once."""
        if position not in self.drawn:
            self.drawn[position] = self.noise.draw(tuple(self.latents.shape))
        return self.drawn[position]

    def commit(self, batch: Tensor, row: int) -> None:
        """Take row ``row`` of ``batch`` as the new state."""
        self.batch, self.row = batch, row
        self.drawn.clear()


def gather_state(slots: Sequence[Slot]) -> Tensor:
    """Return the states of ``slots``, [B, 4, C, h, w], without a copy where they lie together."""
    batch = slots[0].batch
    together = len(slots) == len(batch) and all(
        slot.batch is batch and slot.row == row for row, slot in enumerate(slots)
    )
    return batch if together else torch.stack([slot.batch[slot.row] for slot in slots])


def gather_noise(slots: Sequence[Slot], positions: Sequence[int]) -> Tensor | None:
    """Return the noise of each slot's evaluation [B, C, h, w], zero where none; None for none."""
    needs = [slot.route.needs_noise[at] for slot, at in zip(slots, positions, strict=True)]
    if not any(needs):
        return None
    batch = slots[0].batch
    noise = torch.zeros(len(slots), *batch.shape[2:], dtype=batch.dtype)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        if needs[row]:
            noise[row] = slot.draw(position)
    return noise.to(batch.device)

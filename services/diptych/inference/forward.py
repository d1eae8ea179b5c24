"""One expert's UNet as ticks call it: recorded for fixed shapes where that pays, eager elsewhere.

A recorded graph serves one shape. So a batch is padded to the next of a few sizes, and shapes
that were not warmed at start run eagerly: nothing is ever recorded or compiled under traffic.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.bank import Bank
from diptych.adapters.row_lines import RowLines, RowUses
from diptych.inference.conditions import Conditions
from diptych.inference.graphs import Predict
from diptych.kernels.low_rank import RowTensors
from diptych.models.text_memory import RowText, TextMemory, remember_text
from diptych.models.unet import Unet

__all__ = ["Forward", "Recorder", "batch_sizes"]

Recorder = Callable[[Predict], Predict]
"""Turns an eager function into one that is recorded at its first call of a shape."""

_WARM_RUNS: Final = 3
"""The first records, the last is measured."""
_EAGER_SIZES: Final = (2,)
_REMEMBERED_BATCHES: Final = 8


def batch_sizes(max_rows: int) -> tuple[int, ...]:
    """Return the powers of two up to ``max_rows``, and ``max_rows`` itself."""
    sizes = [1]
    while 2 * sizes[-1] < max_rows:
        sizes.append(2 * sizes[-1])
    return tuple(sorted({*sizes, max_rows}))


class Forward:
    """Calls one UNet; used by the engine's thread alone, as recorded graphs belong to a thread."""

    def __init__(
        self,
        unet: Unet,
        bank: Bank,
        *,
        recorder: Recorder | None,
        sizes: Sequence[int],
    ) -> None:
        self._unet, self._bank = unet, bank
        self._selected: OrderedDict[tuple[RowUses, ...], RowLines | None] = OrderedDict()
        self._recorded = None if recorder is None else recorder(self._predict)
        self._sizes = tuple(sorted(sizes))
        self._warm: set[tuple[object, ...]] = set()
        self._memory: TextMemory | None = None
        if unet.device.type == "cpu" and recorder is None:
            self._memory = remember_text(unet.module)

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        conditions: Conditions,
        adapters: Sequence[RowUses],
        texts: Sequence[RowText],
    ) -> Tensor:
        """Return the prediction for ``x`` [R, 4, h, w] at ``timestep`` [R], each with its adapters.

        Args:
            x: Scaled noisy latents.
            timestep: One per row.
            conditions: Of R rows.
            adapters: The lines each of the R rows uses.
            texts: What each of the R rows remembers of its text, if the UNet is one to remember;
                a row that keeps them keeps its text and its adapters.
        """
        num_rows = len(x)
        size = next((size for size in self._sizes if size >= num_rows), num_rows)
        padded = self._select((*adapters, *[adapters[-1]] * (size - num_rows)))
        rows = None if padded is None else padded.tensors
        if self._recorded is None or self._shape(size, x, conditions, rows) not in self._warm:
            told = self._remember(conditions.hidden, adapters, texts)
            with self._bank.using(self._select(tuple(adapters))), told:
                return self._unet.predict(x, timestep, **_named(conditions))
        x, timestep, conditions = _padded(x, timestep, conditions, size)
        return self._recorded(x, timestep, rows, **_named(conditions))[:num_rows]

    def _predict(
        self, x: Tensor, timestep: Tensor, rows: RowTensors | None, **conditions: Tensor
    ) -> Tensor:
        """Predict with adapters that are an argument, so that a graph has them as inputs."""
        with self._bank.using_tensors(rows):
            return self._unet.predict(x, timestep, **conditions)

    def forget_adapters(self) -> None:
        """Drop what was gathered, as lines are about to change hands."""
        self._selected.clear()

    def _remember(
        self, hidden: Tensor, adapters: Sequence[RowUses], texts: Sequence[RowText]
    ) -> AbstractContextManager[None]:
        """Project the texts that are new; return the context in which all are attended to."""
        if self._memory is None:
            return nullcontext()
        new = [row for row, text in enumerate(texts) if text.keys_values is None]
        if new:
            with self._bank.using(self._bank.select([adapters[row] for row in new])):
                self._memory.project(hidden[new], [texts[row] for row in new])
        return self._memory.using(texts)

    def _select(self, adapters: tuple[RowUses, ...]) -> RowLines | None:
        """Return the lines of a batch; remembered while the same rows come again."""
        if not any(adapters):
            return None
        if adapters not in self._selected:
            self._selected[adapters] = self._bank.select(adapters)
            if len(self._selected) > _REMEMBERED_BATCHES:
                self._selected.popitem(last=False)
        self._selected.move_to_end(adapters)
        return self._selected[adapters]

    @torch.inference_mode()
    def warm_up(self, height: int, width: int, conditions: Conditions) -> dict[int, float]:
        """Run what will be needed at one latent size; return seconds by batch size, once warm.

        That is every size, with adapters and without, where the UNet is recorded, and one guided
        image where it is not.

        Args:
            height: Of the latents.
            width: Of the latents.
            conditions: One row, in the shapes that traffic will have.
        """
        sizes = _EAGER_SIZES if self._recorded is None else self._sizes
        found = {}
        # The largest first: the smaller ones find its memory.
        for size in reversed(sizes):
            found[size] = self._warm_size(size, height, width, conditions)
            if self._recorded is not None:
                self._warm_size(size, height, width, conditions, rows=self._bank.no_rows(size))
        return found

    def _warm_size(
        self,
        size: int,
        height: int,
        width: int,
        conditions: Conditions,
        *,
        rows: RowTensors | None = None,
    ) -> float:
        device, channels = self._unet.device, self._unet.module.config.in_channels
        x = torch.zeros(1, channels, height, width, device=device)
        timestep = torch.full((1,), 500.0, device=device)
        x, timestep, conditions = _padded(x, timestep, conditions, size)
        predict = self._predict
        if self._recorded is not None:
            self._warm.add(self._shape(size, x, conditions, rows))
            predict = self._recorded
        seconds = 0.0
        for _ in range(_WARM_RUNS):
            began = time.perf_counter()
            predict(x, timestep, rows, **_named(conditions))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        return seconds

    @staticmethod
    def _shape(
        size: int, x: Tensor, conditions: Conditions, rows: RowTensors | None
    ) -> tuple[object, ...]:
        adapters = () if rows is None else (rows.lines.shape[1], rows.in_gains is not None)
        return (size, *x.shape[2:], conditions.hidden.shape[1], adapters)


def _named(conditions: Conditions) -> dict[str, Tensor]:
    return {
        "hidden": conditions.hidden,
        "pooled": conditions.pooled,
        "time_ids": conditions.time_ids,
    }


def _padded(
    x: Tensor, timestep: Tensor, conditions: Conditions, size: int
) -> tuple[Tensor, Tensor, Conditions]:
    """Return all inputs with the last row repeated up to ``size`` rows."""
    if len(x) == size:
        return x, timestep, conditions
    rows = torch.arange(size, device=x.device).clamp(max=len(x) - 1)
    padded = Conditions(
        hidden=conditions.hidden[rows],
        pooled=conditions.pooled[rows],
        time_ids=conditions.time_ids[rows],
    )
    return x[rows], timestep[rows], padded

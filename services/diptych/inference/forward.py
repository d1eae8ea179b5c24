"""One expert's UNet as ticks call it: compiled for fixed shapes where that pays, eager elsewhere.

A compiled graph serves one shape. So a batch is padded to the next of a few sizes, and shapes
that were not warmed at start run eagerly: nothing is ever compiled under traffic.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from diptych.adapters.bank import Bank
from diptych.adapters.row_lines import RowLines, RowUses
from diptych.inference.conditions import Conditions
from diptych.kernels.low_rank import RowTensors
from diptych.models.text_memory import RowText, TextMemory, remember_text
from diptych.models.unet import Unet

__all__ = ["Compiler", "Forward", "batch_sizes", "cuda_graphs"]

Predict = Callable[..., Tensor]
Compiler = Callable[[Predict], Predict]
"""Turns an eager function into a compiled one."""

_WARM_RUNS: Final = 3
"""The first compiles, the second records a graph, the third is measured."""
WARM_RANKS: Final = (16, 64)
"""Ranks that compiled forwards are warmed for; batches of smaller ones are filled up to these."""
_EAGER_SIZES: Final = (2,)
_REMEMBERED_BATCHES: Final = 8


def batch_sizes(max_rows: int) -> tuple[int, ...]:
    """Return the powers of two up to ``max_rows``, and ``max_rows`` itself."""
    sizes = [1]
    while 2 * sizes[-1] < max_rows:
        sizes.append(2 * sizes[-1])
    return tuple(sorted({*sizes, max_rows}))


def cuda_graphs(predict: Predict) -> Predict:
    """Compile for an accelerator and replay a recorded graph for every shape."""
    compiled: Predict = torch.compile(predict, mode="reduce-overhead", dynamic=False)

    def replay(*args: object, **named: object) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(*args, **named)

    return replay


class Forward:
    """Calls one UNet; used by the engine's thread alone, as recorded graphs belong to a thread."""

    def __init__(
        self,
        unet: Unet,
        bank: Bank,
        *,
        compiler: Compiler | None,
        sizes: Sequence[int],
        ranks: Sequence[int] = WARM_RANKS,
    ) -> None:
        self._unet, self._bank = unet, bank
        self._selected: OrderedDict[tuple[RowUses, ...], RowLines | None] = OrderedDict()
        self._compiled = None if compiler is None else compiler(self._predict)
        self._sizes, self._ranks = tuple(sorted(sizes)), tuple(sorted(ranks))
        self._warm: set[tuple[object, ...]] = set()
        self._memory: TextMemory | None = None
        if unet.device.type == "cpu" and compiler is None:
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
        rows = None if padded is None else self._fixed(padded.tensors)
        if self._compiled is None or self._shape(size, x, conditions, rows) not in self._warm:
            told = self._remember(conditions.hidden, adapters, texts)
            with self._bank.using(self._select(tuple(adapters))), told:
                return self._unet.predict(x, timestep, **_named(conditions))
        x, timestep, conditions = _padded(x, timestep, conditions, size)
        return self._compiled(x, timestep, rows, **_named(conditions))[:num_rows]

    def _predict(
        self, x: Tensor, timestep: Tensor, rows: RowTensors | None, **conditions: Tensor
    ) -> Tensor:
        """Predict with adapters that are an argument, so that a graph has them as inputs."""
        with self._bank.using_tensors(rows):
            return self._unet.predict(x, timestep, **conditions)

    def _fixed(self, rows: RowTensors) -> RowTensors:
        """Return ``rows`` in the form that was warmed: few ranks, and gains whether needed or not.

        Gains of inputs are never warmed, as every layer would pay for them: such batches are run
        eagerly.
        """
        num_rows, rank = rows.lines.shape
        wider = next((warm for warm in self._ranks if warm >= rank), rank) - rank
        gains = rows.out_gains
        return RowTensors(
            lines=functional.pad(rows.lines, (0, wider)),
            scales=functional.pad(rows.scales, (0, wider)),
            out_gains=rows.lines.new_zeros(num_rows) if gains is None else gains,
            in_gains=rows.in_gains,
        )

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

        That is every size where the UNet is compiled, and one guided image where it is not.

        Args:
            height: Of the latents.
            width: Of the latents.
            conditions: One row, in the shapes that traffic will have.
        """
        sizes = self._sizes if self._compiled is not None else _EAGER_SIZES
        found = {size: self._warm_size(size, height, width, conditions) for size in sizes}
        if self._compiled is not None:
            for size, rank in product(sizes, self._ranks):
                self._warm_size(size, height, width, conditions, rank=rank)
        return found

    def _warm_size(
        self, size: int, height: int, width: int, conditions: Conditions, *, rank: int = 0
    ) -> float:
        device, channels = self._unet.device, self._unet.module.config.in_channels
        x = torch.zeros(1, channels, height, width, device=device)
        timestep = torch.full((1,), 500.0, device=device)
        x, timestep, conditions = _padded(x, timestep, conditions, size)
        rows = _no_lines(size, rank, device) if rank else None
        predict = self._predict
        if self._compiled is not None:
            self._warm.add(self._shape(size, x, conditions, rows))
            predict = self._compiled
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


def _no_lines(num_rows: int, rank: int, device: torch.device) -> RowTensors:
    """Return rows without adapters in the form of rows that have some."""
    return RowTensors(
        lines=torch.zeros(num_rows, rank, dtype=torch.int32, device=device),
        scales=torch.zeros(num_rows, rank, device=device),
        out_gains=torch.zeros(num_rows, dtype=torch.int32, device=device),
    )


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

"""One function's work on an accelerator, recorded once for each shape and replayed after.

Launching a UNet's thousands of kernels one by one takes a processor longer than a small batch
takes the device; a recorded graph is one launch. Nothing is compiled: what is replayed is what
ran eagerly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.kernels.low_rank import RowTensors

__all__ = ["Graphs", "Predict"]

Predict = Callable[..., Tensor]
"""Takes x, timestep, the rows' lines or None, and conditions by name."""

Inputs = tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Recorded:
    """A graph, and where it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    output: Tensor


class Graphs:
    """Calls ``predict``, recording what is new; belongs to the thread that calls it.

    Weights and whatever else ``predict`` reads beside its arguments must stay where they are.
    """

    def __init__(self, predict: Predict, pool: tuple[int, int]) -> None:
        """Prepare to call.

        Args:
            predict: The function.
            pool: Memory that graphs share, as they never run at the same time; from
                ``torch.cuda.graph_pool_handle``.
        """
        self._predict, self._pool = predict, pool
        self._recorded: dict[tuple[object, ...], _Recorded] = {}

    def __len__(self) -> int:
        """Return how many graphs were recorded."""
        return len(self._recorded)

    def __call__(
        self, x: Tensor, timestep: Tensor, rows: RowTensors | None, **conditions: Tensor
    ) -> Tensor:
        """Return what ``predict`` returns, valid until the next call of any graph of the pool."""
        names = tuple(conditions)
        inputs: Inputs = (x, timestep, *conditions.values(), *(() if rows is None else rows))
        key = (names, *(None if tensor is None else tensor.shape for tensor in inputs))
        found = self._recorded.get(key)
        if found is None:
            found = self._recorded[key] = self._record(inputs, names)
        for own, given in zip(found.inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        found.graph.replay()
        return found.output

    def _record(self, inputs: Inputs, names: tuple[str, ...]) -> _Recorded:
        own: Inputs = tuple(None if tensor is None else tensor.clone() for tensor in inputs)
        x, timestep, *others = own
        conditions = dict(zip(names, others, strict=False))
        lines = others[len(names) :]
        rows = RowTensors(*lines) if lines else None  # type: ignore[arg-type]
        # Libraries choose and load their kernels at a first call, which cannot be recorded.
        self._predict(x, timestep, rows, **conditions)
        graph = torch.cuda.CUDAGraph()
        pool: Any = self._pool
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = self._predict(x, timestep, rows, **conditions)
        return _Recorded(graph=graph, inputs=own, output=output)

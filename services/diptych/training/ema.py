"""A moving average of what is trained."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from diptych.errors import CheckpointInvalid
from diptych.training.spec import EmaSpec

__all__ = ["Ema"]

_COUNT = "num_updates"


class Ema:
    """The exponential moving average of parameters, float32, on their devices.

    average <- decay average + (1 - decay) parameter, begun at the parameters as they are when it
    is made. With warm-up the n-th update's decay, from n = 0, is (1 + n) / (10 + n) at most, so
    that the beginning is soon forgotten. Owned by the training loop; not thread-safe.
    """

    def __init__(self, parameters: Sequence[Tensor], spec: EmaSpec) -> None:
        assert all(p.dtype == torch.float32 for p in parameters)
        self._parameters = list(parameters)
        self._averages = [p.detach().clone() for p in parameters]
        self._spec = spec
        self._num_updates = 0
        self._is_swapped = False

    @property
    def decay(self) -> float:
        """Return how much of the average the next update keeps."""
        warm = (1 + self._num_updates) / (10 + self._num_updates)
        return min(self._spec.decay, warm) if self._spec.warmup else self._spec.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the parameters in as they are after optimizer step ``step``, counted from 1.

        Does nothing on steps that are not whole multiples of ``every_steps``.
        """
        assert not self._is_swapped
        if step % self._spec.every_steps:
            return
        torch._foreach_lerp_(self._averages, self._parameters, weight=1.0 - self.decay)
        self._num_updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Hold the averages in the parameters' place; both are back, bit for bit, at the end."""
        self._swap()
        self._is_swapped = True
        try:
            yield
        finally:
            self._swap()
            self._is_swapped = False

    def state(self) -> dict[str, Tensor]:
        """Return the averages by their number, not copied, and the count of updates, int64."""
        assert not self._is_swapped
        averages = {str(i): average for i, average in enumerate(self._averages)}
        return averages | {_COUNT: torch.tensor(self._num_updates)}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from averages that ``state`` returned; takes copies.

        Raises:
            CheckpointInvalid: They are another set of parameters'.
        """
        shapes = {str(i): average.shape for i, average in enumerate(self._averages)}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != shapes | {_COUNT: torch.Size([])}:
            raise CheckpointInvalid("moving average", "is of other parameters than the job's")
        for i, average in enumerate(self._averages):
            average.copy_(tensors[str(i)])
        self._num_updates = int(tensors[_COUNT])

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)

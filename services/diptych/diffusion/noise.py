"""The noise of one image: a generator of its own, on the CPU, drawn from in a fixed order."""

import torch
from torch import Tensor

__all__ = ["RowNoise"]


class RowNoise:
    """All noise of one image, from one seed: the initial latents first, then the solver's.

    Equal to what diffusers draws for this image when it is given a list of CPU generators, one per
    image, whichever device the model is on. The engine's executor owns it; not thread-safe.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._draws = 0

    @property
    def draws(self) -> int:
        """Noises drawn or skipped so far, the initial one included."""
        return self._draws

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Return the next unit normal noise of ``shape``, float32, on the CPU."""
        self._draws += 1
        return torch.randn(shape, generator=self._generator, dtype=torch.float32)

    def skip(self, count: int, shape: tuple[int, ...]) -> None:
        """Move past ``count`` noises of ``shape``, as if they had been drawn."""
        for _ in range(count):
            self.draw(shape)

"""Whether updates are so small that the numbers they are added to do not change."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor

__all__ = ["PrecisionWatch"]

_EVERY_STEPS: Final = 100
_NUM_PARAMETERS: Final = 16
_NUM_NUMBERS: Final = 4096
_TOO_MANY: Final = 0.5


class PrecisionWatch:
    """Looks at some of the weights around a step, now and then; owned by the loop."""

    def __init__(self, parameters: Sequence[Tensor], *, every_steps: int = _EVERY_STEPS) -> None:
        """Watch at most 16 of ``parameters``, spread evenly over them."""
        stride = max(1, len(parameters) // _NUM_PARAMETERS)
        self._watched = list(parameters[::stride][:_NUM_PARAMETERS])
        self._every_steps = every_steps
        self._before: list[Tensor] = []

    def before(self, step: int) -> None:
        """Remember weights before the optimizer's ``step``, counted from 1."""
        is_due = step % self._every_steps == 0
        self._before = [_some(one).clone() for one in self._watched] if is_due else []

    def lost_share(self) -> float | None:
        """Return the share of numbers with a gradient that did not change; None when not due.

        Of those that were watched; 0 where none has a gradient.
        """
        if not self._before:
            return None
        num_moved = num_same = 0
        for before, parameter in zip(self._before, self._watched, strict=True):
            if parameter.grad is not None:
                has_gradient = _some(parameter.grad) != 0
                is_same = (_some(parameter) == before) & has_gradient
                num_same += int(is_same.sum())
                num_moved += int(has_gradient.sum()) - int(is_same.sum())
        self._before = []
        return num_same / max(1, num_same + num_moved)

    @staticmethod
    def is_too_many(share: float) -> bool:
        """Return whether so many lost updates are worth a warning: half of them."""
        return share >= _TOO_MANY


def _some(tensor: Tensor) -> Tensor:
    own = tensor.detach()
    local: Tensor = own.to_local() if hasattr(own, "to_local") else own
    return local.flatten()[:_NUM_NUMBERS]

"""What a request will cost in device seconds, and whether there is room and time for it.

Cost is measured, not configured: every tick teaches the seconds that one UNet row of an expert
takes at a size. The time to the end assumes that every image gets an equal share of the device,
as the scheduler arranges: of work that others have left, an image waits for no more than its
own amount.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diptych.errors import DeadlineUnreachable, QueueFull
from diptych.inference.trajectory import Expert

__all__ = ["CostModel", "Demand", "Work", "admit"]

_ASSUMED_ROW_S = 2e-3
_SMOOTHING = 0.1
_MIN_RETRY_S = 0.1

Work = Mapping[Expert, int]
"""UNet rows to be computed by each expert."""


class CostModel:
    """Running means of seconds per UNet row by expert and picture area.

    Written by the engine thread; another thread may read a value that is one tick old.
    """

    def __init__(self) -> None:
        self._row_s: dict[tuple[Expert, int], float] = {}

    def learn(self, expert: Expert, num_pixels: int, *, num_rows: int, seconds: float) -> None:
        """Take in one measured tick."""
        sample = seconds / num_rows
        known = self._row_s.get((expert, num_pixels), sample)
        self._row_s[expert, num_pixels] = known + _SMOOTHING * (sample - known)

    def row_s(self, expert: Expert, num_pixels: int) -> float:
        """Return predicted seconds per row; an unmeasured size is scaled from the nearest one."""
        known = self._row_s.get((expert, num_pixels))
        if known is not None:
            return known
        nearest = min(
            list(self._row_s),
            key=lambda key: (key[0] != expert, abs(key[1] - num_pixels)),
            default=None,
        )
        if nearest is None:
            return _ASSUMED_ROW_S
        return self._row_s[nearest] * num_pixels / nearest[1]

    def work_s(self, work: Work, num_pixels: int) -> float:
        """Return predicted device seconds of some rows at one size."""
        return sum(rows * self.row_s(expert, num_pixels) for expert, rows in work.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request asks of the device, and by when."""

    num_images: int
    image_s: float
    """Predicted device seconds of one image."""
    remaining_s: float | None
    """Seconds to the caller's deadline; None is no deadline."""


def admit(
    demand: Demand, backlog_s: Sequence[float], *, num_waiting: int, max_waiting: int
) -> float:
    """Return predicted seconds to the end of the last image, or refuse the request.

    Under equal shares a job of size w ends when every job j has received min(w, w_j).

    Args:
        demand: The request.
        backlog_s: Device seconds left to each image that is open already.
        num_waiting: Images that wait for a slot now.
        max_waiting: Images that may wait for a slot.

    Raises:
        QueueFull: Not all images fit the queue; says when to try again.
        DeadlineUnreachable: The last image would end after the deadline.
    """
    if num_waiting + demand.num_images > max_waiting:
        mean_s = sum(backlog_s) / max(1, len(backlog_s))
        raise QueueFull(
            waiting=num_waiting,
            limit=max_waiting,
            retry_after_s=max(_MIN_RETRY_S, mean_s * demand.num_images),
        )
    others_s = sum(min(demand.image_s, left_s) for left_s in backlog_s)
    predicted_s = demand.image_s * demand.num_images + others_s
    if demand.remaining_s is not None and predicted_s > demand.remaining_s:
        raise DeadlineUnreachable(predicted_s=predicted_s, remaining_s=demand.remaining_s)
    return predicted_s

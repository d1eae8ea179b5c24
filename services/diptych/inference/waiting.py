"""Images that wait for a slot, and whose turn it is: pure policy, no tensors and no clock.

Images with the same adapters form a flow, those without any another. Flows take turns by the
device time they were given, as in start-time fair queueing (Goyal, Vin, Cheng 1996): one
adapter's thousand requests do not keep a hundred others' first ones waiting. Within a flow the
oldest image goes first.
"""

from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Waiting"]


@dataclass(slots=True, kw_only=True)
class _Flow:
    """The images of one flow by age, with the seconds each will cost."""

    seconds: dict[int, float]
    virtual_s: float


class Waiting:
    """Waiting images; owned by the engine thread.

    An image is known by a number that grows with its age: the smaller, the older.
    """

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Flow] = {}
        self._flow_of: dict[int, Hashable] = {}
        self._virtual_s = 0.0

    def __len__(self) -> int:
        """Return how many images wait."""
        return len(self._flow_of)

    def put(self, number: int, flow: Hashable, *, cost_s: float) -> None:
        """Add an image; a flow that was empty joins at the present virtual time."""
        own = self._flows.setdefault(flow, _Flow(seconds={}, virtual_s=self._virtual_s))
        if not own.seconds:
            own.virtual_s = max(own.virtual_s, self._virtual_s)
        own.seconds[number] = cost_s
        self._flow_of[number] = flow

    def discard(self, number: int) -> None:
        """Forget an image; unknown ones are ignored."""
        if number in self._flow_of:
            del self._flows[self._flow_of.pop(number)].seconds[number]

    def heads(self) -> list[int]:
        """Return the oldest image of each flow, the flow that is furthest behind first."""
        waiting = [flow for flow in self._flows.values() if flow.seconds]
        heads = sorted((flow.virtual_s, min(flow.seconds)) for flow in waiting)
        return [number for _, number in heads]

    def take(self, number: int) -> None:
        """Remove an image that got a slot and charge its flow."""
        flow = self._flows[self._flow_of.pop(number)]
        self._virtual_s = max(self._virtual_s, flow.virtual_s)
        flow.virtual_s += flow.seconds.pop(number)
        self._forget_idle()

    def _forget_idle(self) -> None:
        """Drop empty flows that owe nothing; one that ran ahead keeps its debt until then."""
        idle = [
            name
            for name, flow in self._flows.items()
            if not flow.seconds and flow.virtual_s <= self._virtual_s
        ]
        for name in idle:
            del self._flows[name]

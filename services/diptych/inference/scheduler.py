"""Which rows advance in the next tick: pure policy over numbers, no tensors and no clock.

Rows of one tick share an expert, a latent shape and a text length (a ``Group``); nothing else
about them has to agree. Groups take turns by the device time they cost, as in start-time fair
queueing (Goyal, Vin, Cheng 1996): each group carries a virtual time that grows by the cost of
its ticks over the number of trajectories it holds, and the group that is furthest behind goes
next. So every trajectory is owed the same share of the device, whatever its shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

from diptych.inference.trajectory import Expert

__all__ = ["Cost", "Group", "Scheduler", "Tick"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What rows of one tick have in common; ``width`` and ``height`` are pixels."""

    expert: Expert
    width: int
    height: int
    text_length: int

    @property
    def num_pixels(self) -> int:
        """Return the area that a row's cost goes by."""
        return self.width * self.height


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Trajectories to advance by one evaluation, oldest first; ``num_rows`` counts UNet rows."""

    group: Group
    members: tuple[int, ...]
    num_rows: int


Cost = Callable[[Group, int], float]
"""Predicted seconds of a tick of this group with this many UNet rows."""


@dataclass(slots=True)
class _Queue:
    """The members of one group by age, with the UNet rows each needs next."""

    num_rows: dict[int, int]
    virtual_s: float


class Scheduler:
    """Runnable trajectories and the order of their turns; owned by the engine thread.

    A trajectory is known by a number that grows with its age: the smaller, the older.
    """

    def __init__(self, *, max_rows: int, cost: Cost) -> None:
        assert max_rows >= 2, "a guided trajectory is two rows"
        self._max_rows = max_rows
        self._cost = cost
        self._queues: dict[Group, _Queue] = {}
        self._group_of: dict[int, Group] = {}
        self._limits: dict[Group, int] = {}
        self._virtual_s = 0.0

    def __len__(self) -> int:
        """Return how many trajectories are runnable."""
        return len(self._group_of)

    def put(self, member: int, group: Group, num_rows: int) -> None:
        """Make ``member`` runnable in ``group`` with 1 or 2 rows, wherever it was before.

        A group that was idle joins at the present virtual time: it has no claim on the past.
        """
        if self._group_of.get(member) != group:
            self.discard(member)
            self._group_of[member] = group
        queue = self._queues.setdefault(group, _Queue(num_rows={}, virtual_s=self._virtual_s))
        if not queue.num_rows:
            queue.virtual_s = max(queue.virtual_s, self._virtual_s)
        queue.num_rows[member] = num_rows

    def discard(self, member: int) -> None:
        """Forget ``member``; unknown members are ignored."""
        group = self._group_of.pop(member, None)
        if group is not None:
            del self._queues[group].num_rows[member]

    def limit_rows(self, group: Group, max_rows: int) -> None:
        """Keep later ticks of ``group`` within ``max_rows``, as the device has no room for more."""
        self._limits[group] = max(2, min(max_rows, self._limit(group)))

    def next_tick(self) -> Tick | None:
        """Return the next tick and charge its predicted cost, or None when nothing can run."""
        if not self._group_of:
            return None
        runnable = [(group, queue) for group, queue in self._queues.items() if queue.num_rows]
        group, queue = min(runnable, key=lambda item: item[1].virtual_s)
        members, num_rows = self._fill(queue, self._limit(group))
        self._virtual_s = queue.virtual_s
        queue.virtual_s += self._cost(group, num_rows) / len(queue.num_rows)
        self._forget_idle()
        return Tick(group=group, members=members, num_rows=num_rows)

    def _forget_idle(self) -> None:
        """Drop empty groups that owe nothing; one that ran ahead keeps its debt until then."""
        idle = [
            group
            for group, queue in self._queues.items()
            if not queue.num_rows and queue.virtual_s <= self._virtual_s
        ]
        for group in idle:
            del self._queues[group]

    def _limit(self, group: Group) -> int:
        return self._limits.get(group, self._max_rows)

    @staticmethod
    def _fill(queue: _Queue, limit: int) -> tuple[tuple[int, ...], int]:
        """Take the oldest members that fit ``limit`` rows; a small one may use what is left."""
        members: list[int] = []
        total = 0
        for member in sorted(queue.num_rows):
            num_rows = queue.num_rows[member]
            if total + num_rows <= limit:
                members.append(member)
                total += num_rows
        return tuple(members), total

"""Whether a server that has worked for long is as large, and as free, as one that just began."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diptych.bench.recipes import Recipe, mixed_recipes
from diptych.bench.serving import Serving
from diptych.clients.events import Queued
from diptych.clients.inference import InferenceClient
from diptych.errors import FieldViolation, QueueFull, SettingInvalid
from diptych.inference.allocator import REST_S

__all__ = [
    "AT_REST_S",
    "MAX_GROWTH",
    "NUM_SETTLING",
    "Memory",
    "await_idle",
    "measure_memory",
    "resident_at_rest",
    "resident_bytes",
]

MAX_GROWTH = 0.02
NUM_SETTLING: Final = 32
"""Requests at least before the first look: allocators fill their pools, caches their places."""
_SETTLING_SHARE: Final = 0.2
"""The same, as a share of the requests after it."""
_AT_ONCE: Final = 16
_PATIENCE_S: Final = 10.0
AT_REST_S: Final = REST_S + 5.0
"""By then the server has given its free pages back."""
_LOOK_S: Final = 0.05
_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A server before and after much work; caller and server share the process."""

    num_requests: int
    num_cancelled: int
    before_bytes: int
    after_bytes: int
    num_slots: int
    slots_free: int
    """After everything was painted or cancelled."""

    @property
    def growth(self) -> float:
        """Return the growth of resident memory over the counted requests, as a share."""
        return self.after_bytes / self.before_bytes - 1

    @property
    def holds(self) -> bool:
        """Whether memory and slots are within what is promised."""
        return self.growth < MAX_GROWTH and self.slots_free == self.num_slots


def measure_memory(
    server: Serving,
    *,
    num_requests: int,
    num_cancelled: int,
    rest_s: float = AT_REST_S,
    progress: Callable[[], None] = lambda: None,
) -> Memory:
    """Paint many pictures, give many more requests up, and look at memory and slots.

    Args:
        server: Serves nobody else.
        num_requests: Pictures painted between the two looks at memory.
        num_cancelled: Requests given up right after they were admitted.
        rest_s: How long the server does nothing before each look at memory.
        progress: Called after every request.
    """
    recipes = [replace(r, num_steps=4, boundary=0.5) for r in mixed_recipes(64)]
    num_settling = max(NUM_SETTLING, int(num_requests * _SETTLING_SHARE))

    def paint(index: int) -> None:
        call = recipes[index % len(recipes)].call("png")
        _patiently(lambda: server.client.generate_images(call))
        progress()

    def give_up(index: int) -> None:
        _patiently(lambda: _cancel_early(server.client, recipes[index % len(recipes)]))
        progress()

    with ThreadPoolExecutor(_AT_ONCE, "caller") as pool:
        list(pool.map(paint, range(num_settling)))
        before = resident_at_rest(server, rest_s)
        list(pool.map(paint, range(num_requests)))
        after = resident_at_rest(server, rest_s)
        list(pool.map(give_up, range(num_cancelled)))
    paint(0)
    await_idle(server)
    return Memory(
        num_requests=num_requests,
        num_cancelled=num_cancelled,
        before_bytes=before,
        after_bytes=after,
        num_slots=server.num_slots,
        slots_free=server.stats().slots_free,
    )


def resident_bytes() -> int:
    """Return the memory this process holds.

    Raises:
        SettingInvalid: This system has no /proc.
    """
    if not _STATUS.exists():
        description = "memory is read from it, and this system has none"
        raise SettingInvalid([FieldViolation(field=str(_STATUS), description=description)])
    lines = _STATUS.read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def resident_at_rest(server: Serving, rest_s: float = AT_REST_S) -> int:
    """Return the memory this process holds once the server has done nothing for ``rest_s``."""
    await_idle(server)
    time.sleep(rest_s)
    return resident_bytes()


def _patiently(ask: Callable[[], object]) -> None:
    """Ask again, as late as the server says, for as long as its queue is full."""
    while True:
        try:
            ask()
        except QueueFull as full:
            time.sleep(full.retry_after_s or _LOOK_S)
        else:
            return


def await_idle(server: Serving) -> None:
    """Return when every slot is free; the last cancellations may still be on their way."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while server.stats().slots_free < server.num_slots and time.monotonic() < give_up_at:
        time.sleep(_LOOK_S)


def _cancel_early(client: InferenceClient, recipe: Recipe) -> None:
    """Ask for a picture and hang up at the first event."""
    events = client.generate(recipe.call("png"))
    assert isinstance(events, Generator)
    assert isinstance(next(events), Queued)
    events.close()

"""What a server asks of the C library's allocator: one heap that keeps its pages until rest.

glibc gives threads heaps of their own, up to eight per core. A batch is allocated in one thread and
freed in another, so each heap keeps room for the largest moment of its own. Pieces between the
holes keep those pages resident, so that memory wanders though nothing leaks.

A forward frees what it allocated, and by default the larger part goes back to the system at once,
to be faulted in and filled with zeros again by the next one. On a CPU and a small UNet that was a
fifth of a forward.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Final

__all__ = ["REST_S", "Rest", "set_heap_up", "trim_heap"]

REST_S: Final = 5.0
"""Seconds without work before free pages are given back: the next request faults them in again."""

_M_ARENA_MAX: Final = -8
"""glibc's malloc.h; the same limit as the variable ``MALLOC_ARENA_MAX``, which it overrides."""
_NUM_ARENAS: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 256 << 20
"""Free at the heap's end before any is given back: more than what a batch of a small UNet takes."""
_MAPPED_BYTES: Final = 32 << 20
"""Pieces from this size on are mapped alone and go back when freed; glibc's own upper bound."""


def set_heap_up(libc: object | None = None) -> bool:
    """Let all threads of this process share one heap that keeps what is freed until ``trim_heap``.

    For programs that own their process, before they start threads: a heap that a thread has
    already stays. Other C libraries than glibc have no such settings and are left as they are.

    Args:
        libc: The C library; that of this process by default.

    Returns:
        Whether the allocator took all of it.
    """
    mallopt = getattr(libc or _libc(), "mallopt", None)
    if mallopt is None:
        return False
    wanted = (
        (_M_ARENA_MAX, _NUM_ARENAS),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        (_M_MMAP_THRESHOLD, _MAPPED_BYTES),
    )
    taken = [mallopt(name, value) == 1 for name, value in wanted]
    return all(taken)


def trim_heap(libc: object | None = None) -> bool:
    """Give free pages back to the system; return whether there were any it could give.

    Takes a tenth of a second, in which other threads wait for memory.

    Args:
        libc: The C library; that of this process by default.
    """
    malloc_trim = getattr(libc or _libc(), "malloc_trim", None)
    return malloc_trim is not None and malloc_trim(0) == 1


class Rest:
    """Tells when rest has lasted ``REST_S`` after work; owned by whoever looks at the engine."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_ticks = 0
        self._since: float | None = None

    def reached(self, num_ticks: int, *, busy: bool) -> bool:
        """Return True at the first look after that time, once for each stretch of work.

        Args:
            num_ticks: Ticks of the engine so far; a change means that it has worked.
            busy: Whether it works now.
        """
        now = self._clock()
        if busy or num_ticks != self._num_ticks:
            self._num_ticks, self._since = num_ticks, now
        if self._since is None or now - self._since < REST_S:
            return False
        self._since = None
        return True


def _libc() -> object | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None

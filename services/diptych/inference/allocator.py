"""What a server asks of the C library's allocator: one heap, and its free pages at rest.

glibc gives threads heaps of their own, up to eight per core. A batch is allocated in one thread and
freed in another, so each heap keeps room for the largest moment of its own. Pieces between the
holes keep those pages resident, so that memory wanders though nothing leaks.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Final

__all__ = ["REST_S", "Rest", "bound_arenas", "trim_heap"]

REST_S: Final = 5.0
"""Seconds without work before free pages are given back: the next request faults them in again."""

_M_ARENA_MAX: Final = -8
"""glibc's malloc.h; the same limit as the variable ``MALLOC_ARENA_MAX``, which it overrides."""
_NUM_ARENAS: Final = 1


def bound_arenas(libc: object | None = None) -> bool:
    """Let all threads of this process share one heap; return whether the allocator took it.

    For programs that own their process, before they start threads: a heap that a thread has
    already stays. Other C libraries than glibc have no such limit and are left as they are.

    Args:
        libc: The C library; that of this process by default.
    """
    mallopt = getattr(libc or _libc(), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, _NUM_ARENAS) == 1


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

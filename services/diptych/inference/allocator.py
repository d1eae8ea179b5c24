"""One arena for the C library's allocator, so that a server's memory stops growing early.

glibc gives threads heaps of their own, up to eight per core. A batch is allocated in one thread and
freed in another, so each heap keeps room for the largest moment of its own, and resident memory
creeps up for hundreds of requests though nothing leaks.
"""

import ctypes
import sys
from typing import Final

__all__ = ["bound_arenas"]

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
    if libc is None and sys.platform == "linux":
        libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, _NUM_ARENAS) == 1

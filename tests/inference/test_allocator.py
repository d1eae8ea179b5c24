"""Threads share one heap once they are told to; it keeps free pages, which go back at rest."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from diptych.bench.memory import resident_bytes
from diptych.inference.allocator import REST_S, Rest, set_heap_up, trim_heap

COUNT_HEAPS = """
import contextlib, ctypes, runpy, sys, threading

libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
with contextlib.suppress(SystemExit):
    {begin}
both = threading.Barrier(5)
for _ in range(4):
    threading.Thread(target=lambda: (bytearray(4096), both.wait(), both.wait())).start()
both.wait()
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
both.wait()
"""
"""Prints what glibc knows of its heaps while four threads hold memory."""

COUNT_FAULTS = """
import ctypes, resource

{begin}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def forward():
    pieces = [libc.malloc(2**23) for _ in range(4)]
    for piece in pieces:
        libc.memset(piece, 1, 2**23)
    for piece in pieces:
        libc.free(piece)

for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    forward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how many pages are faulted in when 32 MiB that were just freed are taken again."""

BOUND = "from diptych.inference.allocator import set_heap_up; set_heap_up()"
PROGRAM = "sys.argv[1:] = ['--help']; runpy.run_module('{}', run_name='__main__')"


def num_heaps(begin: str) -> int:
    asked = [sys.executable, "-c", COUNT_HEAPS.format(begin=begin)]
    found = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60)
    return found.stdout.count("<heap ")


def test_threads_of_a_bounded_process_share_one_heap() -> None:
    assert num_heaps(BOUND) == 1


def test_threads_of_any_other_process_have_heaps_of_their_own() -> None:
    assert num_heaps("pass") > 1


@pytest.mark.parametrize("program", ["diptych.cli", "diptych.inference"])
def test_programs_bound_the_process_that_is_theirs(program: str) -> None:
    assert num_heaps(PROGRAM.format(program)) == 1


def num_faults(begin: str) -> int:
    asked = [sys.executable, "-c", COUNT_FAULTS.format(begin=begin)]
    found = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60)
    return int(found.stdout)


def test_pages_that_a_forward_freed_serve_the_next_one() -> None:
    assert num_faults(BOUND) < 100 < num_faults("pass")


def test_a_library_without_such_a_limit_is_left_alone() -> None:
    assert not set_heap_up(SimpleNamespace())


def test_a_limit_that_is_refused_is_reported() -> None:
    assert not set_heap_up(SimpleNamespace(mallopt=lambda *_: 0))


def test_free_pages_between_pieces_in_use_go_back() -> None:
    pieces = [bytearray(8192) for _ in range(4096)]
    del pieces[::2]
    before = resident_bytes()
    trim_heap()
    assert before - resident_bytes() > 8 * 2**20


def test_a_library_that_cannot_trim_is_left_alone() -> None:
    assert not trim_heap(SimpleNamespace())


def test_rest_is_reached_once_when_work_has_been_over_long_enough() -> None:
    now = [100.0]
    rest = Rest(clock=lambda: now[0])
    seen = []
    for passed_s, num_ticks, busy in (
        (0, 0, False),
        (REST_S, 0, False),
        (0, 7, True),
        (REST_S, 9, False),
        (REST_S - 1, 9, False),
        (1, 9, False),
        (REST_S, 9, False),
    ):
        now[0] += passed_s
        seen.append(rest.reached(num_ticks, busy=busy))
    assert seen == [False] * 5 + [True, False]


def test_rest_is_not_reached_while_a_request_waits() -> None:
    now = [100.0]
    rest = Rest(clock=lambda: now[0])
    rest.reached(1, busy=True)
    now[0] += 2 * REST_S
    assert not rest.reached(1, busy=True)

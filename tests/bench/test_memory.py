"""Work leaves neither memory nor slots behind."""

import pytest

from diptych.bench.memory import NUM_SETTLING, Memory, measure_memory, resident_bytes
from diptych.bench.serving import Serving


def test_requests_painted_and_given_up_leak_no_slot_and_are_all_reported(
    server: Serving,
) -> None:
    seen: list[int] = []
    found = measure_memory(
        server, num_requests=10, num_cancelled=60, rest_s=0.0, progress=lambda: seen.append(1)
    )
    assert (found.slots_free, found.num_slots) == (server.num_slots, server.num_slots)
    assert len(seen) == NUM_SETTLING + 10 + 60 + 1


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    held = b"\x01" * (64 * 2**20)
    assert resident_bytes() - before > len(held) / 2


def test_growth_is_a_share_of_the_memory_before() -> None:
    found = Memory(
        num_requests=1,
        num_cancelled=0,
        before_bytes=1000,
        after_bytes=1030,
        num_slots=2,
        slots_free=2,
    )
    assert found.growth == pytest.approx(0.03)
    assert not found.holds

"""Work leaves neither memory nor slots behind."""

from diptych.bench.memory import Memory, measure_memory, resident_bytes
from diptych.bench.serving import Serving


def test_requests_painted_and_given_up_leak_no_slot(server: Serving) -> None:
    found = measure_memory(server, num_requests=10, num_cancelled=60)
    assert (found.slots_free, found.num_slots) == (server.num_slots, server.num_slots)


def test_every_request_is_reported(server: Serving) -> None:
    seen: list[int] = []
    measure_memory(server, num_requests=3, num_cancelled=4, progress=lambda: seen.append(1))
    assert len(seen) == 50 + 3 + 4 + 1


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
    assert found.growth == 0.03
    assert not found.holds

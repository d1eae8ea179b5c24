"""Whatever is made is made once for all who want it at the same time."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from typing_extensions import override

from diptych.embeddings.flights import Flights


def test_a_thousand_askers_of_fifty_things_cause_fifty_calls() -> None:
    flights, made, calls = Flights[int, int](), dict[int, int](), Counter[int]()
    start = threading.Barrier(100)

    def make(key: int) -> int:
        if key not in made:
            calls[key] += 1
            threading.Event().wait(0.01)
            made[key] = key * key
        return made[key]

    def ask(asker: int) -> list[int]:
        start.wait()
        keys = [(asker + step * 5) % 50 for step in range(10)]
        return [flights.run(key, lambda key=key: make(key)) - key * key for key in keys]  # type: ignore[misc]

    with ThreadPoolExecutor(100) as pool:
        differences = [value for found in pool.map(ask, range(100)) for value in found]
    assert differences == [0] * 1000
    assert calls == Counter(range(50))
    assert len(flights) == 0


class Watched:
    """A key that tells when it is looked up for the second time."""

    def __init__(self) -> None:
        self.num_lookups, self.is_shared = 0, threading.Event()

    @override
    def __hash__(self) -> int:
        self.num_lookups += 1
        if self.num_lookups > 2:  # the leader looks it up, then puts it there
            self.is_shared.set()
        return 1


def test_all_who_wait_get_the_error_and_the_next_tries_again() -> None:
    flights, key, entered = Flights[Watched, int](), Watched(), threading.Event()

    def fail() -> int:
        entered.set()
        key.is_shared.wait()
        raise ZeroDivisionError

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(flights.run, key, fail)
        entered.wait()
        follower = pool.submit(flights.run, key, lambda: 1)
        for one in (leader, follower):
            with pytest.raises(ZeroDivisionError):
                one.result()
    assert flights.run(key, lambda: 2) == 2

"""Results come in order, and only so much is begun before it is asked for."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from diptych.embeddings.read_ahead import read_ahead


def test_results_come_in_order() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = read_ahead(range(100), lambda item: item * item, pool=pool, num_ahead=8)
        assert list(found) == [item * item for item in range(100)]


def test_only_so_many_items_are_taken_before_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in count():
            taken.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        found = read_ahead(items(), lambda item: item, pool=pool, num_ahead=5)
        assert next(found) == 0
    assert len(taken) == 5


def test_an_error_comes_where_its_result_would_have() -> None:
    with ThreadPoolExecutor(2) as pool:
        found = read_ahead([1, 0, 1], lambda item: 1 // item, pool=pool, num_ahead=2)
        assert next(found) == 1
        with pytest.raises(ZeroDivisionError):
            next(found)


def test_work_is_done_by_the_pool() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        work = read_ahead([0], lambda _: threading.current_thread().name, pool=pool, num_ahead=1)
        assert next(work).startswith("reader")

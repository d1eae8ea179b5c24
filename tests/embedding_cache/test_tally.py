"""A tally counts what many threads add, and tells it as it goes."""

from concurrent.futures import ThreadPoolExecutor

from diptych.embedding_cache.tally import Tally


def test_progress_hears_of_what_is_done_encoded_and_failed() -> None:
    heard: list[tuple[int, int, int, int]] = []
    tally = Tally(6, lambda *counts: heard.append(counts))
    tally.present(2)
    tally.encoded(3)
    tally.failed("a.png", "is no picture")
    assert heard == [(2, 6, 0, 0), (5, 6, 3, 0), (5, 6, 3, 1)]
    assert tally.failures == [("a.png", "is no picture")]


def test_many_threads_lose_no_count() -> None:
    tally = Tally(1000, lambda *_: None)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tally.encoded, [1] * 1000))
    assert tally.num_encoded == 1000

"""A warm-up over loopback tells how far it is, ends with its result, and ends when it is left."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import WarmCall
from diptych.digest import Digest
from diptych.embedding_cache.ports import (
    GoOn,
    Hosting,
    NeedsConfig,
    Stage,
    WarmOrder,
    WarmOutcome,
)
from diptych.errors import DiptychError
from support.embedding_stores import FakeEncoding, FakeStore

CALL = WarmCall(manifest="a: 1", batch_size=4, num_epochs=2, long_prompt="chunk", force=True)


class FakeWarming:
    """Tells its progress until it is told to end, or ends by itself."""

    def __init__(self) -> None:
        self.is_endless = False
        self.left = threading.Event()
        self.orders: list[WarmOrder] = []

    def warm(
        self,
        order: WarmOrder,
        *,
        tenant: str,
        go_on: GoOn,
        progress: Callable[[int, int, int, int], None],
    ) -> WarmOutcome:
        del tenant
        self.orders.append(order)
        progress(1, 2, 1, 0)
        while self.is_endless:
            self._look(go_on)
        return WarmOutcome(
            dataset=Digest.of_bytes(order.manifest.encode()),
            num_total=2,
            num_present=len(order.stages),
            num_encoded=1,
            failures=(("a.png", "is cut"),),
            num_cut=3,
            left_out=(("one images", "read-only"),),
        )

    def _look(self, go_on: GoOn) -> None:
        try:
            go_on()
        except DiptychError:
            self.left.set()
            raise


@pytest.fixture
def warming() -> FakeWarming:
    return FakeWarming()


@pytest.fixture
def hosting(store: FakeStore, encoding: FakeEncoding, warming: FakeWarming) -> Hosting:
    return Hosting(
        encodings={Stage.BASE: encoding}, store_of=lambda _tenant: store, warming=warming
    )


def test_result_comes_last(client: EmbeddingCacheClient) -> None:
    result = client.warm(CALL)
    assert (result.num_total, result.num_present, result.failures) == (2, 1, {"a.png": "is cut"})
    assert (result.num_cut, result.left_out) == (3, {"one images": "read-only"})


def test_what_the_run_needs_reaches_the_warm_up(
    client: EmbeddingCacheClient, warming: FakeWarming
) -> None:
    client.warm(CALL)
    needs = NeedsConfig(batch_size=4, num_epochs=2, long_prompt="chunk", force=True)
    assert warming.orders == [WarmOrder(manifest="a: 1", stages=(Stage.BASE,), needs=needs)]


def test_leaving_ends_the_work(client: EmbeddingCacheClient, warming: FakeWarming) -> None:
    warming.is_endless = True
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(client.warm, CALL, timeout_s=0.5)
        assert calling.exception(10) is not None
    assert warming.left.wait(10)

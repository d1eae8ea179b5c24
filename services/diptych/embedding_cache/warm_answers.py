"""A warm-up in a thread, as the messages that tell its caller how far it is."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diptych.embedding_cache.answers import warm_result
from diptych.embedding_cache.ports import GoOn, Warming, WarmOrder
from diptych.errors import RequestCancelled
from diptych.rpc.interceptors import Caller
from diptych.v1 import embedding_cache_pb2 as pb

__all__ = ["warm_answers"]


async def warm_answers(
    warming: Warming, order: WarmOrder, caller: Caller, threads: ThreadPoolExecutor
) -> AsyncGenerator[pb.WarmDatasetResponse]:
    """Yield how far a warm-up is, then what came of it; closing this ends it.

    Of progress that comes quicker than it is taken only the latest is told.
    """
    loop, news, left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    latest: list[pb.WarmProgress] = []

    def progress(done: int, total: int, encoded: int, failed: int) -> None:
        latest[:] = [
            pb.WarmProgress(num_done=done, num_total=total, num_encoded=encoded, num_failed=failed)
        ]
        with contextlib.suppress(RuntimeError):  # the loop is gone only after its calls
            loop.call_soon_threadsafe(news.set)

    go_on = _unless(left, caller.request_id)
    work = partial(warming.warm, order, tenant=caller.tenant, go_on=go_on, progress=progress)
    working = loop.run_in_executor(threads, work)
    working.add_done_callback(lambda _: news.set())
    try:
        while not working.done():
            await news.wait()
            news.clear()
            if latest and not working.done():
                yield pb.WarmDatasetResponse(progress=latest.pop())
        yield pb.WarmDatasetResponse(result=warm_result(working.result()))
    finally:
        left.set()


def _unless(left: threading.Event, request_id: str) -> GoOn:
    """Return what raises once ``left`` is set: the caller of this call has gone."""

    def go_on() -> None:
        if left.is_set():
            raise RequestCancelled(request_id)

    return go_on

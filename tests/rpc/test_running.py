"""A service in a thread comes up, is called by its address and ends when it is told."""

import asyncio
from collections.abc import Callable

import pytest

from diptych.errors import EngineFault, Unavailable
from diptych.rpc.running import Ports, ServingThread, unless

PORTS = Ports(host="127.0.0.1", port=5, metrics_port=None, health_port=None)


async def serving(stop: asyncio.Event, ready: Callable[[Ports], None]) -> bool:
    ready(PORTS)
    await stop.wait()
    return True


async def failing(stop: asyncio.Event, ready: Callable[[Ports], None]) -> bool:
    raise EngineFault("no weights")


async def loading(stop: asyncio.Event, ready: Callable[[Ports], None]) -> bool:
    await stop.wait()
    return False


def test_address_is_known_once_it_serves() -> None:
    thread = ServingThread(serving)
    thread.start(timeout_s=10)
    assert thread.address == "127.0.0.1:5"
    thread.stop()


def test_what_goes_wrong_while_it_comes_up_is_raised() -> None:
    thread = ServingThread(failing)
    with pytest.raises(EngineFault, match="no weights"):
        thread.start(timeout_s=10)


def test_one_that_takes_too_long_is_unavailable() -> None:
    thread = ServingThread(loading)
    with pytest.raises(Unavailable, match="not ready within"):
        thread.start(timeout_s=0.05)
    thread.stop()


async def test_work_is_given_up_when_the_stop_comes() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await unless(stop, asyncio.sleep(10, "done")) is None


async def test_work_that_ends_first_counts() -> None:
    assert await unless(asyncio.Event(), asyncio.sleep(0, "done")) == "done"

"""Events cross from the engine's threads in order; a slow reader misses steps, never an image."""

import asyncio
import threading

import pytest

from diptych.errors import EngineFault
from diptych.inference.stream import EventStream
from diptych.inference.trajectory import (
    Completed,
    Event,
    Expert,
    Failed,
    ImageReady,
    Preview,
    Queued,
    Started,
    Stepped,
)


def step(number: int, image: int = 0) -> Stepped:
    return Stepped(image_index=image, step=number, num_steps=9, expert=Expert.BASE)


def image(index: int) -> ImageReady:
    return ImageReady(image_index=index, seed=index, width=8, height=8, data=b"x")


async def read(events: list[Event]) -> list[Event]:
    stream = EventStream(asyncio.get_running_loop())
    for event in events:
        stream.put(event)
    return [event async for event in stream.events()]


async def test_events_come_in_order() -> None:
    events: list[Event] = [
        Queued(position=0, predicted_s=1.0),
        Started(),
        step(1),
        image(0),
        Completed(),
    ]
    assert await read(events) == events


async def test_slow_reader_hears_only_the_newest_step_of_an_image() -> None:
    events: list[Event] = [step(1), step(2), step(1, image=1), step(3), Completed()]
    assert await read(events) == [step(1, image=1), step(3), Completed()]


async def test_slow_reader_hears_only_the_newest_preview_of_an_image() -> None:
    previews = [Preview(image_index=0, step=n, data=b"x", width=8, height=8) for n in (1, 2)]
    assert await read([*previews, Completed()]) == [previews[1], Completed()]


async def test_slow_reader_misses_no_image() -> None:
    events: list[Event] = [*(image(index) for index in range(16)), Completed()]
    assert await read(events) == events


async def test_failure_is_raised() -> None:
    with pytest.raises(EngineFault):
        await read([step(1), Failed(error=EngineFault("x"))])


async def test_events_put_by_other_threads_wake_the_reader() -> None:
    stream = EventStream(asyncio.get_running_loop())
    events: list[Event] = [image(0), image(1), Completed()]

    def put_all() -> None:
        for event in events:
            stream.put(event)

    thread = threading.Thread(target=put_all)
    thread.start()
    heard = [event async for event in stream.events()]
    thread.join()
    assert heard == events


def test_put_after_the_loop_is_closed_raises_nothing() -> None:
    loop = asyncio.new_event_loop()
    stream = EventStream(loop)
    loop.close()
    stream.put(Completed())

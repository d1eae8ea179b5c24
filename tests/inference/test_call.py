"""What a call promises its listener."""

import numpy as np

from diptych.errors import EngineFault
from diptych.inference.call import Call, Image
from diptych.inference.route import Route
from diptych.inference.trajectory import (
    Completed,
    Event,
    Expert,
    Failed,
    ImageReady,
    ImageRequest,
    Preview,
    Started,
)


def call(num_images: int, events: list[Event]) -> Call:
    route = Route(
        experts=(Expert.BASE,) * 4,
        num_rows=(2, 2, 1, 1),
        steps=(1, 2, 3, 4),
        num_steps=4,
        coefficients=np.zeros((4, 1), np.float32),
        needs_noise=(False,) * 4,
        start=(0.0, 1.0),
    )
    made = Call(
        request=ImageRequest(request_id="a", width=64, height=64, seed=1, num_images=num_images),
        route=route,
        listener=events.append,
        submitted_at=10.0,
        image_s=8.0,
    )
    made.images += [Image(call=made, number=index, index=index) for index in range(num_images)]
    return made


def ready(index: int) -> ImageReady:
    return ImageReady(image_index=index, seed=1, width=64, height=64)


def test_completes_with_its_last_image() -> None:
    events: list[Event] = []
    made = call(2, events)
    assert [made.complete_image(ready(index), 12.0) for index in range(2)] == [False, True]
    assert isinstance(events[-1], Completed)


def test_timings_add_up_to_the_whole() -> None:
    events: list[Event] = []
    made = call(1, events)
    made.started_at, made.decoding_since = 11.0, 13.0
    made.num_texts_encoded, made.num_texts_cached = 3, 1
    made.complete_image(ready(0), 14.0)
    assert isinstance(events[-1], Completed)
    timings = events[-1].timings
    assert (timings.queue_s, timings.decode_s, timings.total_s) == (1.0, 1.0, 4.0)
    assert (timings.num_texts_encoded, timings.num_texts_cached) == (3, 1)


def test_nothing_follows_a_failure() -> None:
    events: list[Event] = []
    made = call(1, events)
    assert made.fail(EngineFault("x"))
    made.deliver(Started())
    assert not made.complete_image(ready(0), 12.0)
    assert [type(event) for event in events] == [Failed]


def test_fails_once() -> None:
    made = call(1, [])
    assert [made.fail(EngineFault("x")) for _ in range(2)] == [True, False]


def test_an_image_knows_what_it_needs_next() -> None:
    (image,) = call(1, []).images
    image.position = 2
    assert (image.num_rows, image.left_s, image.waiting) == (1, 4.0, True)


def preview(step: int, index: int = 0) -> Preview:
    return Preview(image_index=index, step=step, data=b"", width=8, height=8)


def test_a_preview_never_follows_a_newer_one_of_its_image() -> None:
    events: list[Event] = []
    made = call(2, events)
    for shown in (preview(4), preview(2), preview(2, index=1), preview(4), preview(6)):
        made.deliver_preview(shown)
    assert events == [preview(4), preview(2, index=1), preview(6)]


def test_a_preview_never_follows_its_picture() -> None:
    events: list[Event] = []
    made = call(2, events)
    made.complete_image(ready(0), 12.0)
    made.deliver_preview(preview(9))
    made.deliver_preview(preview(9, index=1))
    assert events == [ready(0), preview(9, index=1)]

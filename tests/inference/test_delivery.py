"""From latents to the listener."""

from collections.abc import Callable

import numpy as np
import pytest

from diptych.errors import DiptychError, EngineFault
from diptych.inference.call import Call, Image
from diptych.inference.delivery import Delivery
from diptych.inference.ports import Finished, Picture
from diptych.inference.route import Route
from diptych.inference.trajectory import (
    Completed,
    Event,
    Expert,
    ImageReady,
    ImageRequest,
    Preview,
)


class Desk:
    """A decoder that answers ``answer``, an observer, and what they saw."""

    def __init__(self, answer: Picture | DiptychError) -> None:
        self.answer = answer
        self.events: list[Event] = []
        self.done: list[DiptychError | None] = []
        self.reasons: list[str | None] = []
        self.delivery = Delivery(
            decoder=self,
            observer=self,
            clock=lambda: 5.0,
            done=lambda call, error: self.done.append(error),
        )
        self.image = self.make_image()

    def on_adapter_load(self, *, seconds: float, tier: str, reason: str | None) -> None:
        pass

    def make_image(self) -> Image:
        route = Route(
            experts=(Expert.BASE,),
            num_rows=(1,),
            steps=(1,),
            num_steps=1,
            coefficients=np.zeros((1, 1), np.float32),
            needs_noise=(False,),
            start=(0.0, 1.0),
        )
        call = Call(
            request=ImageRequest(request_id="a", width=64, height=64, seed=40),
            route=route,
            listener=self.events.append,
            submitted_at=0.0,
            image_s=1.0,
        )
        call.images.append(Image(call=call, number=0, index=0))
        return call.images[0]

    def decode(
        self, latents: object, request: ImageRequest, done: Callable[[Picture | DiptychError], None]
    ) -> None:
        done(self.answer)

    preview = decode

    def stop(self) -> None:
        pass

    def on_tick(
        self, *, expert: Expert, num_rows: int, num_adapter_sets: int, seconds: float
    ) -> None:
        pass

    def on_queue_time(self, seconds: float) -> None:
        pass

    def on_decode(self, seconds: float) -> None:
        pass

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        pass

    def on_finish(self, *, seconds: float, num_images: int, reason: str | None) -> None:
        self.reasons.append(reason)


@pytest.fixture
def desk() -> Desk:
    return Desk(Picture(width=64, height=64, data=b"png"))


def test_delivers_the_picture_with_its_seed_and_draws(desk: Desk) -> None:
    desk.delivery.send(desk.image, Finished(latents=None, draws=3))
    ready = desk.events[0]
    assert isinstance(ready, ImageReady)
    assert (ready.seed, ready.draws, ready.data) == (40, 3, b"png")


def test_the_last_picture_completes_the_request(desk: Desk) -> None:
    desk.delivery.send(desk.image, Finished(latents=None, draws=3))
    assert isinstance(desk.events[-1], Completed)
    assert (desk.reasons, desk.done) == ([None], [None])


def test_a_picture_that_failed_is_left_to_the_engine() -> None:
    error = EngineFault("x")
    desk = Desk(error)
    desk.delivery.send(desk.image, Finished(latents=None, draws=3))
    assert (desk.events, desk.done) == ([], [error])


def test_delivers_a_preview_with_its_step(desk: Desk) -> None:
    desk.delivery.send_preview(desk.image, None, step=4)
    assert desk.events == [Preview(image_index=0, step=4, data=b"png", width=64, height=64)]


def test_a_preview_that_failed_is_no_event() -> None:
    desk = Desk(EngineFault("x"))
    desk.delivery.send_preview(desk.image, None, step=4)
    assert desk.events == []

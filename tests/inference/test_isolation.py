"""Bad rows fail alone; full devices get smaller batches."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from diptych.errors import DiptychError, EngineFault, OutOfDeviceMemory
from diptych.inference.call import Call, Image
from diptych.inference.isolation import Isolation, as_failure
from diptych.inference.ports import Row
from diptych.inference.route import Route
from diptych.inference.trajectory import Expert, ImageRequest


class Device:
    """Runs rows unless told otherwise, and notes the batches it was given."""

    def __init__(self, *, room: int = 99, bad_slot: int | None = None) -> None:
        self.room, self.bad_slot = room, bad_slot
        self.batches: list[list[int]] = []

    def run(self, expert: Expert, rows: Sequence[Row]) -> Sequence[object | None]:
        slots = [row.slot for row in rows]
        self.batches.append(slots)
        if len(rows) > self.room:
            raise OutOfDeviceMemory(width=64, height=64)
        if self.bad_slot in slots:
            raise ValueError("bad row")
        return [row.preview or None for row in rows]


class Outcome:
    """An isolation over ``device`` and what it reported."""

    def __init__(self, device: Device) -> None:
        self.failed: dict[int, DiptychError] = {}
        self.num_shrinks = 0
        executor = SimpleNamespace(run=device.run)
        self.isolation = Isolation(executor=executor, fail=self.fail, shrink=self.shrink)

    def fail(self, image: Image, error: DiptychError) -> None:
        self.failed[image.number] = error

    def shrink(self) -> None:
        self.num_shrinks += 1


def images(rows: Sequence[int], *, preview_every: int = 0) -> list[Image]:
    request = ImageRequest(request_id="a", width=64, height=64, seed=1, preview_every=preview_every)
    return [image(request, number, num_rows) for number, num_rows in enumerate(rows)]


def image(request: ImageRequest, number: int, num_rows: int) -> Image:
    route = Route(
        experts=(Expert.BASE,) * 4,
        num_rows=(num_rows,) * 4,
        steps=(1, 1, 2, 2),
        num_steps=2,
        coefficients=np.zeros((4, 1), np.float32),
        needs_noise=(False,) * 4,
        start=(0.0, 1.0),
    )
    call = Call(
        request=request, route=route, listener=lambda event: None, submitted_at=0.0, image_s=1.0
    )
    return Image(call=call, number=number, index=0, slot=number)


def test_a_good_batch_runs_once() -> None:
    device = Device()
    advanced = Outcome(device).isolation.run(Expert.BASE, images([2, 2, 2]))
    assert [each.number for each, _ in advanced] == [0, 1, 2]
    assert device.batches == [[0, 1, 2]]


def test_a_bad_row_is_found_by_running_each_alone() -> None:
    outcome = Outcome(Device(bad_slot=1))
    advanced = outcome.isolation.run(Expert.BASE, images([2, 2, 2]))
    assert [each.number for each, _ in advanced] == [0, 2]
    assert isinstance(outcome.failed[1], EngineFault)


def test_a_full_device_gets_two_halves() -> None:
    device = Device(room=2)
    outcome = Outcome(device)
    outcome.isolation.run(Expert.BASE, images([2, 2, 2]))
    assert device.batches == [[0, 1, 2], [0, 1], [2]]
    assert (outcome.num_shrinks, outcome.failed) == (1, {})


def test_a_half_that_does_not_fit_loses_its_largest_row_only() -> None:
    outcome = Outcome(Device(room=1))
    advanced = outcome.isolation.run(Expert.BASE, images([1, 2, 1, 1]))
    assert set(outcome.failed) == {1, 3}
    assert advanced == []


@pytest.mark.parametrize(("position", "wanted"), [(0, None), (1, None), (2, None), (3, True)])
def test_previews_are_asked_for_at_the_end_of_a_step(position: int, wanted: object) -> None:
    (each,) = images([2], preview_every=2)
    each.position = position
    assert Outcome(Device()).isolation.run(Expert.BASE, [each]) == [(each, wanted)]


def test_our_own_errors_stay_what_they_are() -> None:
    error = OutOfDeviceMemory(width=8, height=8)
    assert as_failure(error) is error

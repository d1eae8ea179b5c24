"""The values that requests and events are made of."""

import dataclasses
import typing

import pytest

from diptych.inference import trajectory
from diptych.inference.trajectory import Event, ImageRequest, StageSettings, Timings


@pytest.mark.parametrize("kind", [*typing.get_args(Event), ImageRequest, StageSettings, Timings])
def test_values_cannot_be_changed(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)


def test_every_event_is_exported() -> None:
    assert {kind.__name__ for kind in typing.get_args(Event)} <= set(trajectory.__all__)


def test_a_request_needs_only_what_has_no_default() -> None:
    request = ImageRequest(request_id="a", width=64, height=64, seed=1)
    assert (request.num_images, request.boundary, request.skip_draws) == (1, None, 0)

"""Latents of finished pictures become the source of a refinement."""

import dataclasses

import numpy as np
import pytest

from diptych.clients.calls import Latents
from diptych.clients.events import Picture
from diptych.errors import InvalidRequest


def painted(index: int) -> Picture:
    return Picture(
        image_index=index,
        seed=index,
        width=16,
        height=24,
        media_type="application/octet-stream",
        data=b"",
        latents=np.full((4, 3, 2), index, dtype=np.float32),
        family="nano",
        boundary=0.65,
        num_steps=40,
        num_draws=26,
    )


def test_latents_are_stacked_in_order_of_their_index() -> None:
    latents = Latents.of([painted(1), painted(0)])
    np.testing.assert_array_equal(latents.values[:, 0, 0, 0], [0, 1])


def test_latents_keep_their_provenance() -> None:
    latents = Latents.of([painted(0)])
    provenance = (latents.family, latents.boundary, latents.num_steps, latents.num_draws)
    assert provenance == ("nano", 0.65, 40, 26)


@pytest.mark.parametrize(
    "pictures",
    [
        [],
        [painted(0), dataclasses.replace(painted(1), latents=None)],
        [painted(0), dataclasses.replace(painted(1), num_steps=20)],
        [painted(0), dataclasses.replace(painted(1), latents=np.zeros((4, 9, 9), np.float32))],
    ],
    ids=["none", "no latents", "other steps", "other size"],
)
def test_pictures_that_do_not_belong_together_are_refused(pictures: list[Picture]) -> None:
    with pytest.raises(InvalidRequest, match="one request"):
        Latents.of(pictures)

"""The reference is stock diffusers, seeded image by image."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.bench.recipes import SEED_RECIPE
from diptych.bench.reference import SCHEDULERS, Reference, generators
from diptych.bench.steps import load_architecture
from diptych.diffusion import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUICK = replace(SEED_RECIPE, num_steps=4)


def test_every_solver_we_offer_has_a_scheduler_to_be_compared_with() -> None:
    assert set(SCHEDULERS) == set(SOLVERS)


def test_image_i_is_seeded_with_seed_plus_i() -> None:
    assert [g.initial_seed() for g in generators(5, 3)] == [5, 6, 7]


def test_an_image_of_many_is_the_image_alone(reference: Reference) -> None:
    both = reference.paint(replace(QUICK, num_images=2)).latents
    alone = reference.paint(replace(QUICK, seed=QUICK.seed + 1)).latents
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)


def test_solvers_leave_no_trace_in_the_next_picture(reference: Reference) -> None:
    first = reference.paint(QUICK).latents
    reference.paint(replace(QUICK, solver="dpmpp_2m_sde"))
    np.testing.assert_array_equal(reference.paint(QUICK).latents, first)


def test_pictures_are_those_that_paint_decodes(reference: Reference) -> None:
    pixels = np.asarray(reference.pictures(QUICK)[0])
    np.testing.assert_array_equal(reference.paint(QUICK).pixels[0], pixels)


def test_the_base_stops_at_the_boundary(reference: Reference) -> None:
    assert not np.allclose(reference.half(QUICK), reference.paint(QUICK).latents)


def test_networks_that_are_loaded_already_paint_the_same(reference: Reference) -> None:
    experts = load_architecture("nano", random_weights=False, device="cpu")
    found = Reference.of(experts, reference.schedule).paint(QUICK).latents
    np.testing.assert_allclose(found, reference.paint(QUICK).latents, atol=1e-4)

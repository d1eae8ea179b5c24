"""Base here and refiner at a peer paint what one server paints."""

import dataclasses

import numpy as np
import pytest

from diptych.clients.calls import GenerateCall, Latents, RefineCall, Stage
from diptych.clients.events import Picture, Progress
from diptych.clients.inference import InferenceClient
from diptych.errors import InvalidRequest

TOLERANCE = 1e-3

CALL = GenerateCall(
    base=Stage(prompt="a red circle", guidance_scale=3.0),
    seed=11,
    num_steps=6,
    width=64,
    height=64,
    boundary=0.5,
    output="latents",
)


def stacked(pictures: list[Picture]) -> np.ndarray:
    return np.stack([p.latents for p in pictures if p.latents is not None])


@pytest.mark.parametrize("solver", ["euler", "euler_ancestral", "dpmpp_2m", "unipc", "lcm"])
def test_two_pools_paint_what_one_server_paints(
    solver: str, client: InferenceClient, base_client: InferenceClient
) -> None:
    call = dataclasses.replace(CALL, solver=solver, num_images=2)
    one, two = client.generate_images(call), base_client.generate_images(call)
    np.testing.assert_allclose(stacked(two), stacked(one), atol=TOLERANCE)


@pytest.mark.parametrize(("num_steps", "boundary"), [(6, 0.5), (1, 0.65), (1, 0.0001), (2, 0.999)])
def test_generate_then_refine_paints_what_one_call_paints(
    num_steps: int, boundary: float, client: InferenceClient
) -> None:
    call = dataclasses.replace(
        CALL, solver="euler_ancestral", num_steps=num_steps, boundary=boundary
    )
    cut = client.generate_images(dataclasses.replace(call, base_only=True))
    refined = client.refine_images(
        RefineCall(
            refiner=call.base,
            source=Latents.of(cut),
            seed=call.seed,
            solver=call.solver,
            output="latents",
        )
    )
    whole = client.generate_images(call)
    np.testing.assert_allclose(stacked(refined), stacked(whole), atol=TOLERANCE)


def test_two_pools_paint_what_one_server_paints_where_the_refiner_has_no_step(
    client: InferenceClient, base_client: InferenceClient
) -> None:
    call = dataclasses.replace(CALL, num_steps=1, boundary=0.65)
    one, two = client.generate_images(call), base_client.generate_images(call)
    np.testing.assert_allclose(stacked(two), stacked(one), atol=TOLERANCE)


def test_refining_finished_latents_leaves_them_as_they_are(client: InferenceClient) -> None:
    call = dataclasses.replace(CALL, num_steps=1, boundary=0.65, base_only=True)
    cut = client.generate_images(call)
    refined = client.refine_images(
        RefineCall(refiner=call.base, source=Latents.of(cut), seed=call.seed, output="latents")
    )
    np.testing.assert_array_equal(stacked(refined), stacked(cut))


def test_steps_of_both_pools_are_told_as_one(base_client: InferenceClient) -> None:
    steps = [e for e in base_client.generate(CALL) if isinstance(e, Progress)]
    assert [(s.step, s.num_steps, s.expert) for s in steps if s.step in {1, 6}] == [
        (1, 6, "base"),
        (6, 6, "refiner"),
    ]


def test_carried_history_is_refused_across_pools(base_client: InferenceClient) -> None:
    with pytest.raises(InvalidRequest, match="history: CARRY needs both experts"):
        base_client.generate_images(dataclasses.replace(CALL, history="carry"))


def test_capabilities_say_where_the_refiner_is(base_client: InferenceClient) -> None:
    experts = base_client.get_capabilities().experts
    assert [(e.expert, e.remote) for e in experts] == [("base", False), ("refiner", True)]

"""The plain loop paints what the server paints."""

from dataclasses import replace

import numpy as np

from diptych.bench.direct import Direct, image_request, refine_request
from diptych.bench.recipes import SEED_RECIPE
from diptych.bench.serving import Serving
from diptych.inference.trajectory import Expert

QUICK = replace(SEED_RECIPE, num_steps=6)


def test_latents_equal_the_servers(direct: Direct, server: Serving) -> None:
    served = server.client.generate_images(QUICK.call("latents"))[0].latents
    assert served is not None
    ours = direct.latents([image_request(QUICK)])[0].numpy()
    np.testing.assert_allclose(ours, served, atol=1e-5)


def test_pictures_equal_the_servers(direct: Direct, server: Serving) -> None:
    served = server.client.generate_images(QUICK.call("png"))[0].data
    assert direct.pictures([image_request(QUICK)]) == [served]


def test_requests_alike_step_together(direct: Direct) -> None:
    requests = [image_request(replace(QUICK, seed=seed)) for seed in (1, 2)]
    together = direct.latents(requests)
    alone = direct.latents(requests[1:])
    np.testing.assert_allclose(together[1].numpy(), alone[0].numpy(), atol=1e-4)


def test_a_refine_request_runs_the_refiner_alone(direct: Direct) -> None:
    assert set(direct.executor.route(refine_request(QUICK)).experts) == {Expert.REFINER}

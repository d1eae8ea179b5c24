"""How far our pictures are from those of stock diffusers, for the same settings and seeds."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.bench.direct import Direct, image_request, with_schedule
from diptych.bench.recipes import SEED_RECIPE, Recipe
from diptych.bench.reference import Painted, Reference
from diptych.clients.calls import ImageSource, RefineCall
from diptych.clients.events import Picture
from diptych.clients.inference import InferenceClient
from diptych.diffusion import SOLVERS
from diptych.models.experts import Experts

__all__ = [
    "MAX_LATENT_DIFFERENCE",
    "MIN_EQUAL_PIXELS",
    "OTHER_SCHEDULES",
    "Parity",
    "compare",
    "compare_refined",
    "compare_schedules",
    "parity_recipes",
]

MAX_LATENT_DIFFERENCE = 1e-3
MIN_EQUAL_PIXELS = 0.999
"""Share of pixels whose every channel is within 1/255."""
_BETAS: Mapping[str, object] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}
_EDM: Mapping[str, object] = {
    "_class_name": "EDMEulerScheduler",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}
OTHER_SCHEDULES: Mapping[str, Mapping[str, object]] = {
    "heun": _BETAS,
    "edm_euler": _EDM,
    "edm_dpmpp_2m": _EDM,
}
"""Solver -> the schedule it is compared on, where it cannot be on the nano pair's.

diffusers' Heun ignores ``rescale_betas_zero_snr``, and EDM solvers need a schedule of their own.
"""
_OTHER_PROMPT = "a small yellow star in the top right corner on a plain black background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """One recipe painted by both."""

    name: str
    latent_difference: float
    """Largest absolute difference of the final latents."""
    equal_pixels: float
    """Share of pixels equal to 1/255."""

    @property
    def holds(self) -> bool:
        """Whether both are within what is promised."""
        near = self.latent_difference <= MAX_LATENT_DIFFERENCE
        return near and self.equal_pixels >= MIN_EQUAL_PIXELS


def parity_recipes(*, num_steps: int = 40) -> Iterator[tuple[str, Recipe]]:
    """Yield named variants of the seed recipe: solvers, boundaries, prompts, counts.

    Args:
        num_steps: Steps of all of them; fewer make a quicker and no easier comparison.
    """
    seed = replace(SEED_RECIPE, num_steps=num_steps)
    yield "seed recipe", seed
    for solver in SOLVERS:
        if solver not in {seed.solver, *OTHER_SCHEDULES}:
            yield f"solver {solver}", replace(seed, solver=solver)
    for boundary in (0.35, 0.5, 0.8):
        yield f"boundary {boundary}", replace(seed, boundary=boundary)
    yield "base alone", replace(seed, boundary=None)
    yield "no guidance", replace(seed, guidance_scale=1.0, guidance_rescale=0.0)
    yield "negative prompt", replace(seed, negative_prompt="blurry", prompt=_OTHER_PROMPT)
    yield "empty negative prompt", replace(seed, negative_prompt="")
    yield (
        "stages unlike",
        replace(
            seed,
            refiner_prompt=_OTHER_PROMPT,
            refiner_negative_prompt="red",
            refiner_guidance_scale=3.0,
        ),
    )
    yield "three images", replace(seed, num_images=3, solver="euler_ancestral")


def compare(client: InferenceClient, reference: Reference, name: str, recipe: Recipe) -> Parity:
    """Paint ``recipe`` with the server and with diffusers and return how far they are apart."""
    ours = _painted(
        client.generate_images(recipe.call("latents")), client.generate_images(recipe.call("png"))
    )
    return _distance(name, ours, reference.paint(recipe))


def compare_schedules(
    experts: Experts, reference: Reference, *, num_steps: int = 40
) -> Iterator[Parity]:
    """Yield how far the plain loop and diffusers are apart on ``OTHER_SCHEDULES``."""
    for solver, config in OTHER_SCHEDULES.items():
        direct = Direct.of(with_schedule(experts, config))
        # diffusers cuts by training timestep, of which EDM schedules have none.
        boundary = SEED_RECIPE.boundary if config is _BETAS else None
        recipe = replace(SEED_RECIPE, solver=solver, num_steps=num_steps, boundary=boundary)
        latents = direct.latents([image_request(recipe)])
        ours = Painted(latents=latents.numpy(), pixels=direct.vae.decode(latents))
        yield _distance(f"solver {solver}", ours, reference.on(config).paint(recipe))


def compare_refined(
    client: InferenceClient, reference: Reference, recipe: Recipe, *, strength: float
) -> Parity:
    """Refine a picture with the server and with diffusers' image-to-image pipeline."""
    picture = reference.pictures(replace(recipe, boundary=None))[0]
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    call = RefineCall(
        refiner=recipe.refiner_stage,
        source=ImageSource(data=stream.getvalue(), strength=strength),
        num_steps=recipe.num_steps,
        solver=recipe.solver,
        eta=recipe.eta,
        seed=recipe.seed,
        num_images=recipe.num_images,
        output="latents",
    )
    ours = _painted(client.refine_images(call), client.refine_images(replace(call, output="png")))
    theirs = reference.refine_picture(recipe, picture, strength)
    return _distance(f"refine {recipe.solver} {strength}", ours, theirs)


def _painted(latents: list[Picture], pictures: list[Picture]) -> Painted:
    return Painted(
        latents=np.stack([one.latents for one in latents if one.latents is not None]),
        pixels=np.stack([_pixels(one.data) for one in pictures]),
    )


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _distance(name: str, ours: Painted, theirs: Painted) -> Parity:
    apart = np.abs(ours.pixels.astype(np.int16) - theirs.pixels.astype(np.int16))
    return Parity(
        name=name,
        latent_difference=float(np.abs(ours.latents - theirs.latents).max()),
        equal_pixels=float((apart.max(axis=-1) <= 1).mean()),
    )

"""What to paint, in the one form that both sides of every comparison understand."""

import random
from dataclasses import dataclass, replace

from diptych.clients.calls import GenerateCall, Stage
from diptych.nano.scenes import caption, held_out_scenes

__all__ = ["SEED_RECIPE", "Recipe", "mixed_recipes", "single_recipe"]

_SOLVERS = ("euler", "unipc", "dpmpp_2m", "ddim", "heun", "euler_ancestral")
_ETA_SOLVERS = ("ddim", "tcd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One request: the base paints up to ``boundary``, the refiner goes on from there."""

    prompt: str
    negative_prompt: str | None = None
    refiner_prompt: str | None = None
    """None is the base's prompt."""
    refiner_negative_prompt: str | None = None
    """Used with ``refiner_prompt`` only; otherwise the base's."""
    num_steps: int = 40
    boundary: float | None = 0.65
    """None: the base alone does the whole schedule."""
    guidance_scale: float = 9.2
    guidance_rescale: float = 0.7
    refiner_guidance_scale: float | None = None
    """None is the base's."""
    solver: str = "unipc"
    seed: int = 0
    num_images: int = 1
    width: int = 128
    height: int = 128

    @property
    def eta(self) -> float | None:
        """Return the stochasticity that diffusers' pipelines pass to solvers that take one."""
        return 0.0 if self.solver in _ETA_SOLVERS else None

    @property
    def base_stage(self) -> Stage:
        """Return how the base is conditioned."""
        return Stage(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
        )

    @property
    def refiner_stage(self) -> Stage:
        """Return how the refiner is conditioned: like the base where nothing else is said."""
        stage = self.base_stage
        if self.refiner_prompt is not None:
            negative = self.refiner_negative_prompt
            stage = replace(stage, prompt=self.refiner_prompt, negative_prompt=negative)
        if self.refiner_guidance_scale is not None:
            stage = replace(stage, guidance_scale=self.refiner_guidance_scale)
        return stage

    def call(self, output: str) -> GenerateCall:
        """Return the call that asks a server for this, delivered as ``output``."""
        return GenerateCall(
            base=self.base_stage,
            refiner=None if self.boundary is None else self.refiner_stage,
            base_only=self.boundary is None,
            boundary=self.boundary,
            num_steps=self.num_steps,
            solver=self.solver,
            eta=self.eta,
            seed=self.seed,
            num_images=self.num_images,
            width=self.width,
            height=self.height,
            output=output,
        )


SEED_RECIPE = Recipe(prompt="a large red heart in the center on a dotted cream background", seed=7)
"""The two-pipeline recipe that the whole project began with: UniPC, 40 steps, cut at 0.65."""


def single_recipe() -> Recipe:
    """Return what a single request's latency is measured on."""
    return SEED_RECIPE


def mixed_recipes(count: int, seed: int = 0) -> list[Recipe]:
    """Draw requests that differ in prompt, steps, guidance, solver, boundary and seed."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible workload, not a secret
    return [
        Recipe(
            prompt=caption(scene),
            negative_prompt=rng.choice((None, None, "blurry", "")),
            num_steps=rng.choice((12, 16, 20, 24, 30)),
            boundary=rng.choice((0.5, 0.65, 0.65, 0.8)),
            guidance_scale=rng.choice((3.0, 5.0, 7.5, 9.2)),
            guidance_rescale=rng.choice((0.0, 0.5, 0.7)),
            solver=rng.choice(_SOLVERS),
            seed=rng.randrange(2**31),
        )
        for scene in held_out_scenes(count, seed)
    ]

"""The same networks driven by a plain loop: what a picture costs without engine and gRPC."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from diptych.bench.recipes import Recipe
from diptych.clients.calls import Stage
from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import DiptychError
from diptych.inference.executor import DeviceExecutor
from diptych.inference.pictures import encode_picture
from diptych.inference.ports import Placement, Row
from diptych.inference.trajectory import ImageRequest, LatentsInput, OutputFormat, StageSettings
from diptych.models.autoencoder import Autoencoder
from diptych.models.experts import Experts

__all__ = ["Direct", "image_request", "refine_request", "with_schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """An executor and an autoencoder that one thread calls in turn."""

    executor: DeviceExecutor
    vae: Autoencoder

    @classmethod
    def of(cls, experts: Experts) -> Self:
        """Prepare to drive ``experts``, warmed up as a server's are."""
        executor = DeviceExecutor(experts)
        executor.warm_up()
        return cls(executor=executor, vae=experts.hosted[0].vae)

    def latents(self, requests: list[ImageRequest]) -> torch.Tensor:
        """Run requests alike in route through every evaluation together, [N, 4, h, w]."""
        self.place(requests)
        route = self.executor.route(requests[0])
        for position, expert in enumerate(route.experts):
            self.executor.run(expert, self.rows(len(requests), position))
        return self.take(len(requests))

    def pictures(self, requests: list[ImageRequest]) -> list[bytes]:
        """Paint requests alike in route and return PNG files."""
        pixels = self.vae.decode(self.latents(requests))
        return [encode_picture(picture, OutputFormat.PNG, quality=90) for picture in pixels]

    def place(self, requests: list[ImageRequest]) -> None:
        """Encode the prompts of ``requests`` and give request i slot i."""
        conditionings = self.executor.encode(requests)
        for slot, (request, conditioning) in enumerate(zip(requests, conditionings, strict=True)):
            if isinstance(conditioning, DiptychError):
                raise conditioning
            self.executor.place(
                Placement(
                    slot=slot,
                    request=request,
                    index=0,
                    route=self.executor.route(request),
                    conditioning=conditioning,
                )
            )

    @staticmethod
    def rows(count: int, position: int) -> list[Row]:
        """Return the rows of a tick that advances slots 0 to ``count`` from ``position``."""
        return [Row(slot=slot, position=position, preview=False) for slot in range(count)]

    def take(self, count: int) -> torch.Tensor:
        """Empty slots 0 to ``count`` and return their latents."""
        found = [self.executor.take(slot).latents for slot in range(count)]
        return torch.stack([latents for latents in found if isinstance(latents, torch.Tensor)])


def with_schedule(experts: Experts, config: Mapping[str, object]) -> Experts:
    """Return the same networks on another schedule, a diffusers scheduler config."""
    schedule = NoiseSchedule.from_config(config, source="bench")
    base, refiner = (
        None if expert is None else replace(expert, schedule=schedule)
        for expert in (experts.base, experts.refiner)
    )
    return Experts(base=base, refiner=refiner)


def image_request(recipe: Recipe) -> ImageRequest:
    """Return what a server makes of a recipe's call."""
    both = recipe.boundary is not None
    return ImageRequest(
        request_id=f"bench-{recipe.seed}",
        width=recipe.width,
        height=recipe.height,
        seed=recipe.seed,
        num_steps=recipe.num_steps,
        boundary=recipe.boundary,
        base=_settings(recipe.base_stage),
        refiner=_settings(recipe.refiner_stage) if both else None,
        solver=recipe.solver,
        eta=recipe.eta,
    )


def refine_request(recipe: Recipe) -> ImageRequest:
    """Return the second half of a recipe alone, from latents that are zero."""
    shape = (1, 4, recipe.height // 8, recipe.width // 8)
    return ImageRequest(
        request_id=f"bench-{recipe.seed}",
        width=recipe.width,
        height=recipe.height,
        seed=recipe.seed,
        num_steps=recipe.num_steps,
        boundary=recipe.boundary,
        refiner=_settings(recipe.refiner_stage),
        source=LatentsInput(latents=np.zeros(shape, np.float32)),
        solver=recipe.solver,
        eta=recipe.eta,
    )


def _settings(stage: Stage) -> StageSettings:
    assert stage.guidance_scale is not None
    return StageSettings(
        prompt=stage.prompt,
        negative_prompt=stage.negative_prompt,
        guidance_scale=stage.guidance_scale,
        guidance_rescale=stage.guidance_rescale,
    )

"""The recipe we are measured against, run with stock diffusers and nothing of ours.

``StableDiffusionXLPipeline`` paints to ``denoising_end`` and hands its latents to
``StableDiffusionXLImg2ImgPipeline`` at ``denoising_start``. The parity tests, the benchmarks and
the documentation all mean this module when they say "diffusers".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPTokenizer

from diptych.bench.recipes import Recipe
from diptych.models.experts import Expert, Experts
from diptych.nano.pair import expert_path

__all__ = ["SCHEDULERS", "Painted", "Reference", "generators"]

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "euler": EulerDiscreteScheduler.from_config,
    "euler_ancestral": EulerAncestralDiscreteScheduler.from_config,
    "heun": HeunDiscreteScheduler.from_config,
    # Clips by default, which is for pixels; SDXL's own configuration turns it off as here.
    "ddim": lambda config: DDIMScheduler.from_config(config, clip_sample=False),
    "dpmpp_2m": lambda config: DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="dpmsolver++"
    ),
    "dpmpp_2m_sde": lambda config: DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="sde-dpmsolver++"
    ),
    "unipc": UniPCMultistepScheduler.from_config,
    "edm_euler": EDMEulerScheduler.from_config,
    "edm_dpmpp_2m": EDMDPMSolverMultistepScheduler.from_config,
    "lcm": LCMScheduler.from_config,
    "tcd": TCDScheduler.from_config,
}
"""Our solver's name -> diffusers' scheduler of that kind, made from the checkpoint's config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """Images of one recipe: latents [N, 4, h, w] float32, pixels [N, H, W, 3] uint8."""

    latents: NDArray[np.float32]
    pixels: NDArray[np.uint8]


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Return one CPU generator per image, image ``i`` seeded ``seed + i``."""
    return [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """diffusers' two pipelines, loaded from two folders in its own layout."""

    base: Any
    refiner: Any
    schedule: Any
    """Scheduler config of the base checkpoint; every solver of both pipelines is made from it."""

    @classmethod
    def load(
        cls,
        base: Path,
        refiner: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load both pipelines as the recipe does."""
        options: dict[str, Any] = {"dtype": dtype, "add_watermarker": False}
        first = StableDiffusionXLPipeline.from_pretrained(base, **options).to(device)
        second = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, **options).to(device)
        for pipeline in (first, second):
            pipeline.set_progress_bar_config(disable=True)
        return cls(base=first, refiner=second, schedule=first.scheduler.config)

    @classmethod
    def of(cls, experts: Experts, schedule: Mapping[str, object]) -> Self:
        """Give both pipelines the networks of ``experts`` themselves, and nano's vocabulary.

        Args:
            experts: SDXL's base and refiner.
            schedule: A diffusers scheduler config.
        """
        assert experts.base is not None
        assert experts.refiner is not None
        first = StableDiffusionXLPipeline(**_parts(experts.base, schedule))
        second = StableDiffusionXLImg2ImgPipeline(
            **_parts(experts.refiner, schedule),
            requires_aesthetics_score=experts.refiner.family.requires_aesthetics_score,
        )
        for pipeline in (first, second):
            pipeline.set_progress_bar_config(disable=True)
        return cls(base=first, refiner=second, schedule=first.scheduler.config)

    def on(self, schedule: Mapping[str, object]) -> "Reference":
        """Return the same networks on another schedule, a diffusers scheduler config."""
        return replace(self, schedule=schedule)

    def pictures(self, recipe: Recipe) -> list[Image.Image]:
        """Paint as a user of diffusers would, to the finished pictures."""
        pictures: list[Image.Image] = self._run(recipe, "pil")
        return pictures

    def paint(self, recipe: Recipe) -> Painted:
        """Paint, keeping the last latents beside the pictures that diffusers makes of them."""
        return self._finish(self._run(recipe, "latent"))

    def half(self, recipe: Recipe) -> NDArray[np.float32]:
        """Return the latents at the boundary, [N, 4, h, w]."""
        return _array(self._run_base(recipe, "latent", generators(recipe.seed, recipe.num_images)))

    def refine_picture(self, recipe: Recipe, picture: Image.Image, strength: float) -> Painted:
        """Run the refiner alone on a picture, noised by ``strength``."""
        rows = generators(recipe.seed, recipe.num_images)
        pipeline = self._ready(self.refiner, recipe)
        pictures = [picture] * recipe.num_images
        options = _stage(recipe, refiner=True) | {"image": pictures, "strength": strength}
        return self._finish(pipeline(**options, generator=rows, output_type="latent").images)

    def _run(self, recipe: Recipe, output: str) -> Any:  # noqa: ANN401 - by output_type
        rows = generators(recipe.seed, recipe.num_images)
        if recipe.boundary is None:
            return self._run_base(recipe, output, rows)
        half = self._run_base(recipe, "latent", rows)
        options = _stage(recipe, refiner=True)
        options |= {"image": half, "denoising_start": recipe.boundary, "output_type": output}
        return self._ready(self.refiner, recipe)(**options, generator=rows).images

    def _run_base(self, recipe: Recipe, output: str, rows: list[torch.Generator]) -> Any:  # noqa: ANN401
        options = _stage(recipe, refiner=False)
        options |= {"width": recipe.width, "height": recipe.height, "output_type": output}
        options |= {"denoising_end": recipe.boundary}
        return self._ready(self.base, recipe)(**options, generator=rows).images

    def _ready(self, pipeline: Any, recipe: Recipe) -> Any:  # noqa: ANN401 - diffusers is untyped
        pipeline.scheduler = SCHEDULERS[recipe.solver](self.schedule)
        return pipeline

    @torch.no_grad()
    def _finish(self, latents: torch.Tensor) -> Painted:
        """Decode as the pipelines do."""
        vae = self.refiner.vae
        images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        pictures = self.refiner.image_processor.postprocess(images, output_type="pil")
        pixels = np.stack([np.asarray(picture) for picture in pictures])
        return Painted(latents=_array(latents), pixels=pixels)


def _parts(expert: Expert, schedule: Mapping[str, object]) -> dict[str, Any]:
    """Return the arguments that both pipelines take; an encoder that an expert lacks is None."""
    tokenizer = CLIPTokenizer.from_pretrained(str(expert_path("base") / "tokenizer"))
    encoders = {encoder.name: encoder.module for encoder in expert.text.encoders}
    return {
        "unet": expert.unet.module,
        "vae": expert.vae.module,
        "text_encoder": encoders.get("text_encoder"),
        "text_encoder_2": encoders["text_encoder_2"],
        "tokenizer": tokenizer if "text_encoder" in encoders else None,
        "tokenizer_2": tokenizer,
        "scheduler": EulerDiscreteScheduler.from_config(schedule),
        "force_zeros_for_empty_prompt": expert.text.zeros_for_none,
        "add_watermarker": False,
    }


def _stage(recipe: Recipe, *, refiner: bool) -> dict[str, Any]:
    """Return the arguments that both pipelines take, one row per image."""
    stage = recipe.refiner_stage if refiner else recipe.base_stage
    negative = stage.negative_prompt
    return {
        "prompt": [stage.prompt] * recipe.num_images,
        "negative_prompt": None if negative is None else [negative] * recipe.num_images,
        "num_inference_steps": recipe.num_steps,
        "guidance_scale": stage.guidance_scale,
        "guidance_rescale": stage.guidance_rescale,
        "eta": recipe.eta or 0.0,
    }


def _array(latents: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = latents.detach().float().cpu().numpy()
    return array

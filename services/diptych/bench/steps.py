"""How fast experts step, batch by batch, and how near that is to what the device can multiply.

No server takes part: the executor and the autoencoder are driven by a plain loop, so that what is
measured is the device. Random weights cost as much as real ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych.bench.direct import Direct, image_request, refine_request
from diptych.bench.random_weights import random_sdxl
from diptych.bench.recipes import SEED_RECIPE, Recipe
from diptych.bench.reference import Reference
from diptych.errors import FieldViolation, InvalidRequest
from diptych.inference.conditions import RequestConditions
from diptych.inference.trajectory import Expert, ImageRequest
from diptych.models.experts import Experts, load_experts
from diptych.nano.pair import expert_path

__all__ = [
    "ARCHITECTURES",
    "Curve",
    "Painting",
    "StepsConfig",
    "StepsReport",
    "check_architecture",
    "device_name",
    "load_architecture",
    "matmul_ceiling",
    "measure_steps",
    "now",
]

ARCHITECTURES = {"sdxl": 1024, "nano": 128}
"""Name -> the size, in pixels, that pictures are measured at."""
_DECODED_TOGETHER = 4
_CEILING_EDGE = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsConfig:
    """What is measured, and how often."""

    architecture: str
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Images that step together; each is two UNet rows, as guidance acts."""
    timed_steps: int = 5
    repeats: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One expert at one batch size."""

    expert: str
    num_images: int
    step_s: float
    """Seconds of one guided step of the whole batch."""
    ceiling_share: float
    """Its floating point operations per second, over the device's measured best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painting:
    """Whole pictures, from prompt to pixels."""

    name: str
    num_images: int
    seconds: float
    theirs_s: float | None = None
    """diffusers, for one such picture; None if it was not asked."""

    @property
    def images_per_s(self) -> float:
        """Return the throughput."""
        return self.num_images / self.seconds

    @property
    def ratio(self) -> float | None:
        """Return the throughput over that of diffusers, which paints one after another."""
        return None if self.theirs_s is None else self.images_per_s * self.theirs_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsReport:
    """What one architecture does on one device."""

    architecture: str
    device: str
    dtype: str
    ceiling_flops: float
    """Floating point operations per second of the best matrix product found."""
    curves: tuple[Curve, ...]
    paintings: tuple[Painting, ...]


def check_architecture(name: str, *, random_weights: bool, device: str) -> None:
    """Check that an architecture can be measured on a device.

    Raises:
        InvalidRequest: It is unknown, has no weights here, or needs a device that this machine
            lacks; all of it is named.
    """
    violations = []
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        violations.append(("architecture", f"{name!r} is not one of {known}"))
    if name == "sdxl" and not random_weights:
        violations.append(("random_weights", "sdxl has no weights here but random ones"))
    if name == "sdxl" and not device.startswith("cuda"):
        violations.append(("device", f"full-size SDXL needs a GPU, not {device!r}"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        violations.append(("device", "this machine has no CUDA or ROCm device"))
    if violations:
        raise InvalidRequest([FieldViolation(field=f, description=d) for f, d in violations])


def load_architecture(name: str, *, random_weights: bool, device: str) -> Experts:
    """Return the experts to measure: bfloat16 on an accelerator, float32 on a CPU.

    Raises as ``check_architecture`` does.
    """
    check_architecture(name, random_weights=random_weights, device=device)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    if name == "sdxl":
        return random_sdxl(device=torch.device(device), dtype=dtype)
    folders = [str(expert_path(expert)) for expert in ("base", "refiner")]
    cache = expert_path("base")  # nothing is fetched for a folder
    return load_experts(*folders, device=device, dtype=dtype, cache_dir=cache)


def measure_steps(
    experts: Experts, config: StepsConfig, reference: Reference | None = None
) -> StepsReport:
    """Measure both experts at every batch size, then whole pictures.

    The pictures are 20 steps of the base alone and 32 of the base with 8 of the refiner, in the
    largest batch, and a single image of 30 base steps.

    Args:
        experts: No one else's.
        config: What to measure.
        reference: diffusers over the same networks, to be measured first; None leaves it out.
    """
    assert experts.base is not None
    unet = experts.base.unet
    size = ARCHITECTURES[config.architecture]
    recipe = replace(SEED_RECIPE, width=size, height=size, solver="euler", num_images=1)
    most, alone = max(config.batches), replace(recipe, boundary=None)
    recipes = {
        "20 base steps": (replace(alone, num_steps=20), most),
        "32 + 8 steps": (replace(recipe, num_steps=40, boundary=0.8), most),
        "one image, 30 base steps": (replace(alone, num_steps=30), 1),
    }
    theirs_s = {
        name: None
        if reference is None
        else _best_seconds(partial(reference.pictures, own), unet.device, config.repeats)
        for name, (own, _) in recipes.items()
    }
    direct = Direct.of(experts)
    ceiling = matmul_ceiling(unet.device, unet.dtype)
    curves = []
    for expert in (Expert.BASE, Expert.REFINER):
        flops = _step_flops(direct, experts, expert, recipe)
        for count in config.batches:
            step_s = _step_seconds(direct, expert, recipe, count, config)
            share = flops * count / step_s / ceiling
            curves.append(
                Curve(expert=expert.value, num_images=count, step_s=step_s, ceiling_share=share)
            )
    paintings = [
        Painting(
            name=name,
            num_images=count,
            seconds=_paint_seconds(direct, own, count, config),
            theirs_s=theirs_s[name],
        )
        for name, (own, count) in recipes.items()
    ]
    return StepsReport(
        architecture=config.architecture,
        device=device_name(unet.device),
        dtype=str(unet.dtype).removeprefix("torch."),
        ceiling_flops=ceiling,
        curves=tuple(curves),
        paintings=tuple(paintings),
    )


def matmul_ceiling(device: torch.device, dtype: torch.dtype, *, repeats: int = 10) -> float:
    """Return the floating point operations per second of a large square matrix product."""
    edge = _CEILING_EDGE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(edge, edge, generator=generator, device=device).to(dtype) for _ in range(2)
    )
    return 2 * edge**3 / _best_seconds(lambda: left @ right, device, repeats)


def _requests(expert: Expert, recipe: Recipe, count: int) -> list[ImageRequest]:
    """Return ``count`` requests that run ``expert`` alone, unlike in their seeds."""
    if expert is Expert.BASE:
        alone = replace(recipe, boundary=None)
        return [image_request(replace(alone, seed=seed)) for seed in range(count)]
    return [refine_request(replace(recipe, seed=seed)) for seed in range(count)]


def _step_flops(direct: Direct, experts: Experts, expert: Expert, recipe: Recipe) -> float:
    """Return the floating point operations of one image's guided step (2 per multiply-add).

    The UNet is called without the executor, as operations of a recorded graph cannot be counted.
    """
    (found,) = direct.executor.encode(_requests(expert, recipe, 1))
    assert isinstance(found, RequestConditions)
    told = found.by_expert[expert]
    (unet,) = (one.unet for one in experts.hosted if one.name == expert.value)
    edges = (recipe.height // 8, recipe.width // 8)
    x = torch.zeros(2, unet.module.config.in_channels, *edges, device=unet.device)
    timestep = torch.full((2,), 500.0, device=unet.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet.predict(x, timestep, hidden=told.hidden, pooled=told.pooled, time_ids=told.time_ids)
    return float(counter.get_total_flops())


def _step_seconds(
    direct: Direct, expert: Expert, recipe: Recipe, count: int, config: StepsConfig
) -> float:
    """Return the median seconds of a step of ``count`` images; the first two are not counted."""
    requests = _requests(expert, recipe, count)
    direct.place(requests)
    num_steps = min(config.timed_steps + 2, len(direct.executor.route(requests[0])))
    seconds = []
    for position in range(num_steps):
        rows = direct.rows(count, position)
        began = now(direct.vae.device)
        direct.executor.run(expert, rows)
        seconds.append(now(direct.vae.device) - began)
    for slot in range(count):
        direct.executor.release(slot)
    counted = sorted(seconds[2:])
    return counted[len(counted) // 2]


def _paint_seconds(direct: Direct, recipe: Recipe, count: int, config: StepsConfig) -> float:
    """Paint ``count`` pictures together and return the best seconds of the repeats."""
    requests = [image_request(replace(recipe, seed=seed)) for seed in range(count)]

    def work() -> None:
        latents = direct.latents(requests)
        for start in range(0, count, _DECODED_TOGETHER):
            direct.vae.decode(latents[start : start + _DECODED_TOGETHER])

    return _best_seconds(work, direct.vae.device, config.repeats)


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the least seconds of ``repeats`` runs, after one that is not counted."""
    seconds: Sequence[float] = [_timed(work, device) for _ in range(repeats + 1)][1:]
    return min(seconds)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = now(device)
    work()
    return now(device) - began


def now(device: torch.device) -> float:
    """Return the clock once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def device_name(device: torch.device) -> str:
    """Return what an accelerator is called, ``cpu`` for none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

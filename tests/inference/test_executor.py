"""The executor with the nano pair: unlike rows together equal each alone, and diffusers."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from diffusers.schedulers import UniPCMultistepScheduler

from diptych.bench.adapter_makers import EVERY_LAYER, Made, make, of_base
from diptych.embeddings.memory import MemoryTier
from diptych.errors import DiptychError, OutOfDeviceMemory
from diptych.inference.adapter_units import unit_of
from diptych.inference.executor import DeviceExecutor, ExecutorConfig
from diptych.inference.pictures import encode_picture
from diptych.inference.ports import Placement
from diptych.inference.prompt_cache import LocalPrompts, PromptTiers
from diptych.inference.trajectory import (
    AdapterUse,
    Expert,
    ImageInput,
    ImageRequest,
    LatentsInput,
    OutputFormat,
    StageSettings,
)
from diptych.models.experts import Experts, load_experts
from support.painting import largest_difference, paint, row

SOLVERS = ("euler", "euler_ancestral", "heun", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm")


@pytest.fixture(scope="module")
def experts(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    cache_dir = tmp_path_factory.mktemp("cache")
    return load_experts(str(nano_pair / "base"), str(nano_pair / "refiner"), cache_dir=cache_dir)


@pytest.fixture
def executor(experts: Experts) -> DeviceExecutor:
    return DeviceExecutor(experts)


def request(**settings: object) -> ImageRequest:
    stage = StageSettings(prompt="a red circle on the left")
    plain = ImageRequest(
        request_id="a",
        width=128,
        height=128,
        seed=11,
        num_steps=4,
        boundary=0.65,
        base=stage,
        refiner=stage,
    )
    return replace(plain, **settings)  # type: ignore[arg-type]


def unlike_requests(count: int) -> list[ImageRequest]:
    """Return requests that differ in steps, guidance, solver, boundary, prompt and seed."""
    return [
        request(
            request_id=f"{number}",
            seed=100 + number,
            num_steps=2 + number % 4,
            solver=SOLVERS[number % len(SOLVERS)],
            boundary=0.35 + 0.02 * number,
            base=StageSettings(prompt=f"a square {number}", guidance_scale=0.5 + number / 3),
            refiner=StageSettings(
                prompt=f"a star {number}",
                negative_prompt="noise" if number % 2 else None,
                guidance_scale=9.0 - number / 4,
                guidance_rescale=0.7 * (number % 3 == 0),
                guidance_interval=(0.0, 0.95) if number % 4 == 0 else (0.0, 1.0),
            ),
        )
        for number in range(count)
    ]


def test_24_unlike_requests_together_equal_each_alone(executor: DeviceExecutor) -> None:
    requests = unlike_requests(24)
    together = paint(executor, requests)
    alone = [paint(executor, [each])[0] for each in requests]
    assert largest_difference(together, alone) <= 1e-4


def test_few_steps_from_zero_signal_magnify_no_neighbour(executor: DeviceExecutor) -> None:
    # Heun's second evaluation multiplies what the first two differ in by up to a thousand here.
    requests = [
        replace(each, solver="heun", num_steps=2 + number % 2)
        for number, each in enumerate(unlike_requests(6))
    ]
    together = paint(executor, requests)
    alone = [paint(executor, [each])[0] for each in requests]
    assert largest_difference(together, alone) <= 1e-4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
def test_equals_the_two_pipelines_of_diffusers(executor: DeviceExecutor, nano_pair: Path) -> None:
    stage = StageSettings(
        prompt="a red circle", negative_prompt="blue", guidance_scale=9.2, guidance_rescale=0.7
    )
    (ours,) = paint(executor, [request(num_steps=10, solver="unipc", base=stage, refiner=stage)])
    base = StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        nano_pair / "refiner", dtype=torch.float32
    )
    for pipeline in (base, refiner):
        pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
    settings = {
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "guidance_scale": 9.2,
        "num_inference_steps": 10,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(11),
    }
    half = base(**settings, guidance_rescale=0.7, denoising_end=0.65, width=128, height=128).images
    theirs = refiner(**settings, image=half, denoising_start=0.65, guidance_rescale=0.7).images
    assert largest_difference([ours], [theirs[0].numpy()]) <= 1e-3


def test_latents_handed_over_go_on_as_if_they_had_stayed(executor: DeviceExecutor) -> None:
    whole = request(solver="euler_ancestral", num_steps=6)
    (expected,) = paint(executor, [whole])
    (half,) = paint(executor, [replace(whole, refiner=None)])
    draws = 1 + executor.route(whole).experts.count(Expert.BASE)
    source = LatentsInput(latents=half[None])
    (rest,) = paint(executor, [replace(whole, base=None, source=source, skip_draws=draws)])
    assert largest_difference([rest], [expected]) <= 1e-4


def test_refines_a_picture_by_the_steps_that_strength_leaves(executor: DeviceExecutor) -> None:
    pixels = np.full((128, 128, 3), 128, np.uint8)
    data = encode_picture(pixels, OutputFormat.PNG, quality=90)
    source = ImageInput(data=data, strength=0.5)
    refine = request(base=None, boundary=None, num_steps=6, source=source)
    (latents,) = paint(executor, [refine])
    assert len(executor.route(refine)) == 3
    assert np.isfinite(latents).all()


def test_a_row_that_is_not_a_number_spoils_no_other(executor: DeviceExecutor) -> None:
    good = request(base=None, source=LatentsInput(latents=np.ones((1, 4, 16, 16), np.float32)))
    bad = replace(good, source=LatentsInput(latents=np.full((1, 4, 16, 16), np.nan, np.float32)))
    (alone,) = paint(executor, [good])
    together, spoilt = paint(executor, [good, bad])
    assert largest_difference([together], [alone]) <= 1e-4
    assert np.isnan(spoilt).all()


def test_a_tick_without_memory_changes_no_row(
    executor: DeviceExecutor, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ancestral = request(solver="euler_ancestral", refiner=None, boundary=None)
    (expected,) = paint(executor, [ancestral])
    refusals = iter([True, False, True, False, False, False])
    assert experts.base is not None
    predict = experts.base.unet.predict

    def run_short(*args: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        if next(refusals):
            raise torch.OutOfMemoryError
        return predict(*args, **named)

    monkeypatch.setattr(experts.base.unet, "predict", run_short)
    (conditioning,) = executor.encode([ancestral])
    assert not isinstance(conditioning, DiptychError)
    route = executor.route(ancestral)
    executor.place(
        Placement(slot=0, request=ancestral, index=0, route=route, conditioning=conditioning)
    )
    for position, refused in enumerate([True, True, False, False]):
        if refused:
            with pytest.raises(OutOfDeviceMemory):
                executor.run(Expert.BASE, [row(0, position)])
        executor.run(Expert.BASE, [row(0, position)])
    latents = executor.take(0).latents
    assert isinstance(latents, torch.Tensor)
    assert largest_difference([latents.numpy()], [expected]) <= 1e-6


def test_gives_a_denoised_estimate_to_rows_that_ask(executor: DeviceExecutor) -> None:
    requests = unlike_requests(2)
    for slot, conditioning in enumerate(executor.encode(requests)):
        assert not isinstance(conditioning, DiptychError)
        executor.place(
            Placement(
                slot=slot,
                request=requests[slot],
                index=0,
                route=executor.route(requests[slot]),
                conditioning=conditioning,
            )
        )
    first, second = executor.run(Expert.BASE, [row(0, 0), row(1, 0, preview=True)])
    assert first is None
    assert isinstance(second, torch.Tensor)
    assert second.shape == (4, 16, 16)


def test_a_released_slot_can_be_released_again(executor: DeviceExecutor) -> None:
    executor.release(3)
    executor.release(3)


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_adding_and_swapping_adapters_records_nothing(nano_pair: Path, tmp_path: Path) -> None:
    sources = [str(nano_pair / name) for name in ("base", "refiner")]
    experts = load_experts(*sources, device="cuda", dtype=torch.bfloat16, cache_dir=tmp_path)
    executor = DeviceExecutor(experts, config=ExecutorConfig(max_rows=2))
    executor.warm_up()
    num_graphs, num_kernels = executor.num_graphs, compiled_kernels()
    pictures = []
    for rank in (4, 100, 30):
        use = AdapterUse(digest=f"sha256:{rank}", name=str(rank))
        made = make(Made(seed=rank, rank=rank, layers=EVERY_LAYER), of_base(experts))
        executor.attach(unit_of(use), executor.bind([use], [made]))
        pictures.append(paint(executor, [request(adapters=(use,))]))
        executor.detach(unit_of(use))
    assert (executor.num_graphs, compiled_kernels()) == (num_graphs, num_kernels)
    assert largest_difference(pictures[0], pictures[1]) > 0.01


def compiled_kernels() -> int:
    """Return how many variants of the low-rank kernel Triton has compiled."""
    kernel = import_module("diptych.kernels.low_rank_triton")._kernel
    return sum(len(cache[0]) for cache in kernel.device_caches.values())


def test_a_prompt_of_one_tenant_is_not_remembered_for_another(experts: Experts) -> None:
    prompts = PromptTiers({"memory": LocalPrompts(MemoryTier(2**24))}, Unheard())
    executor = DeviceExecutor(experts, prompts=prompts)
    executor.encode([request(tenant="one")])
    found = executor.encode([request(tenant="other"), request(tenant="one")])
    counts = [one.num_texts_cached for one in found if not isinstance(one, DiptychError)]
    assert counts[0] == 0
    assert counts[1] > 0


class Unheard:
    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Count nothing."""

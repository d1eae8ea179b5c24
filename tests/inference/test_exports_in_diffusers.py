"""An adapter of both experts, exported, paints in stock diffusers what it paints here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray

from diptych.adapters.bundle import digest_of, from_bytes
from diptych.adapters.naming import Component
from diptych.adapters.reading import read_adapter
from diptych.adapters.writing import write_adapter
from diptych.inference.adapter_units import units_of
from diptych.inference.executor import DeviceExecutor
from diptych.inference.trajectory import AdapterUse, ImageRequest, StageSettings
from diptych.models.experts import load_experts
from diptych.nano.pair import adapter_path
from support.painting import largest_difference, paint

PROMPTS = {"night": "a red circle on the left", "moon": "a <moon> on the left"}
STEPS, SEED, BOUNDARY = 10, 11, 0.65


@pytest.fixture(scope="module")
def executor(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> DeviceExecutor:
    folders = (str(nano_pair / "base"), str(nano_pair / "refiner"))
    return DeviceExecutor(load_experts(*folders, cache_dir=tmp_path_factory.mktemp("cache")))


def ours(executor: DeviceExecutor, name: str | None, prompt: str) -> Any:
    """Return the latents [4, h, w] that are painted here, with a demo adapter or without."""
    uses = () if name is None else (AdapterUse(digest=f"sha256:{name}", name=name),)
    stage = StageSettings(prompt=prompt, guidance_scale=2.0)
    request = ImageRequest(
        request_id="a",
        width=128,
        height=128,
        seed=SEED,
        num_steps=STEPS,
        boundary=BOUNDARY,
        solver="euler",
        base=stage,
        refiner=stage,
        adapters=uses,
    )
    units = units_of(request)
    for unit in units:
        adapter = from_bytes(adapter_path(str(name)), source=str(name))
        executor.attach(unit, executor.bind(uses, [adapter]))
    (latents,) = paint(executor, [request])
    for unit in units:
        executor.detach(unit)
    return latents


def theirs(nano_pair: Path, exported: Path, prompt: str) -> NDArray[Any]:
    """Return the latents of the two stock pipelines, each with its own part of an export."""
    base = StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        nano_pair / "refiner", dtype=torch.float32
    )
    for pipeline, stage in ((base, "base"), (refiner, "refiner")):
        pipeline.set_progress_bar_config(disable=True)
        (weights,) = (exported / stage).glob("*[!b].safetensors")
        pipeline.load_lora_weights(weights)
        add_tokens(pipeline, exported / stage)
    settings = {
        "prompt": prompt,
        "guidance_scale": 2.0,
        "num_inference_steps": STEPS,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(SEED),
    }
    half = base(**settings, denoising_end=BOUNDARY, width=128, height=128).images
    whole: Any = refiner(**settings, image=half, denoising_start=BOUNDARY).images
    return whole[0].numpy()  # type: ignore[no-any-return]


def add_tokens(pipeline: Any, folder: Path) -> None:
    """Give both encoders the learned tokens of an export, as diffusers' users do."""
    tokens = read_adapter(folder, name=folder.name).tokens
    for text, token in tokens.items():
        for part, tokenizer in (
            (Component.TEXT_ENCODER, pipeline.tokenizer),
            (Component.TEXT_ENCODER_2, pipeline.tokenizer_2),
        ):
            encoder = getattr(pipeline, part)
            vectors = token.vectors[part].float()
            pipeline.load_textual_inversion(
                vectors, token=text, text_encoder=encoder, tokenizer=tokenizer
            )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
@pytest.mark.parametrize(
    ("name", "target_format"), [("night", "diffusers"), ("night", "kohya"), ("moon", "diffusers")]
)
def test_the_two_files_paint_what_the_adapter_paints(
    name: str, target_format: str, executor: DeviceExecutor, nano_pair: Path, tmp_path: Path
) -> None:
    prompt = PROMPTS[name]
    adapter = from_bytes(adapter_path(name), source=name)
    for path, data in write_adapter(adapter, target_format, style="diffusers").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    assert digest_of(read_adapter(tmp_path, name=name)) == digest_of(adapter)
    expected = ours(executor, name, prompt)
    assert largest_difference([expected], [ours(executor, None, prompt)]) > 0.1
    assert largest_difference([expected], [theirs(nano_pair, tmp_path, prompt)]) <= 1e-3

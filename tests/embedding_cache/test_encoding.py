"""Entries hold what diffusers would compute, under keys that both stages of a fine-tune share."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import load_file, save_file

from diptych.datasets.pictures import prepare
from diptych.digest import Digest
from diptych.embedding_cache.batching import Batcher
from diptych.embedding_cache.encoding import Encoders, EncodingConfig, ImageWork, Work, shape_of
from diptych.embeddings.entry import read_entry
from diptych.embeddings.key import Preprocessing
from diptych.embeddings.memory import MemoryTier
from diptych.errors import EmbeddingInvalid, InvalidRequest, OutOfDeviceMemory, PromptTooLong
from diptych.models.autoencoder import Autoencoder
from diptych.models.embedding_values import from_entry
from diptych.models.experts import Expert, Experts, load_experts
from diptych.models.text_encoders import TextEncoders
from support.bad_pictures import saved

WHOLE = Preprocessing(resized=(64, 48), crop=(0, 0, 64, 48))
PROMPTS = ("a red circle", "", "A Blue SQUARE, on a striped background; 你好 éé")


@pytest.fixture(scope="module")
def encoders(base: Expert) -> Encoders:
    return Encoders(base)


@pytest.fixture(scope="module")
def pipeline(nano_pair: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)


def work(encoders: Encoders, seed: int = 0, preprocessing: Preprocessing = WHOLE) -> ImageWork:
    random = np.random.default_rng(seed)
    data = saved(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    record = encoders.image_record(Digest.of_bytes(data), preprocessing)
    return ImageWork(record=record, pixels=prepare(data, preprocessing))


def tensors(entry: bytes) -> dict[str, torch.Tensor]:
    return from_entry(read_entry(entry))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompts_entry_holds_what_diffusers_encodes(
    encoders: Encoders, pipeline: StableDiffusionXLPipeline, prompt: str
) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    (entry,) = encoders.encode_prompts([encoders.prompt_record(prompt)])
    found = tensors(entry)
    torch.testing.assert_close(found["hidden"], hidden[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["pooled"], pooled[0], atol=1e-5, rtol=0)


def test_a_prompt_that_is_not_given_is_zeros_as_in_diffusers(
    encoders: Encoders, pipeline: StableDiffusionXLPipeline
) -> None:
    _, hidden, _, pooled = pipeline.encode_prompt("a", negative_prompt=None)
    (entry,) = encoders.encode_prompts([encoders.prompt_record(None)])
    assert torch.equal(tensors(entry)["hidden"], hidden[0])
    assert torch.equal(tensors(entry)["pooled"], pooled[0])


def test_zeros_stay_zeros_whatever_an_experts_own_way_with_none_is(base: Expert) -> None:
    text = TextEncoders(base.text.encoders, zeros_for_none=False)
    other = Encoders(replace(base, text=text))
    record = Encoders(base).prompt_record(None)
    assert other.prompt_record(None) == other.prompt_record("") != record
    assert not tensors(other.encode([record])[0])["hidden"].any()


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_layers_are_skipped_as_diffusers_counts_them(
    encoders: Encoders, pipeline: StableDiffusionXLPipeline, clip_skip: int
) -> None:
    hidden, *_ = pipeline.encode_prompt(
        "a red circle", do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    (entry,) = encoders.encode_prompts(
        [encoders.prompt_record("a red circle", clip_skip=clip_skip)]
    )
    torch.testing.assert_close(tensors(entry)["hidden"], hidden[0], atol=1e-5, rtol=0)


def test_an_images_entry_holds_diffusers_posterior_unscaled(
    encoders: Encoders, pipeline: StableDiffusionXLPipeline
) -> None:
    own = work(encoders)
    (entry,) = encoders.encode_images([own])
    pixels = VaeImageProcessor(vae_scale_factor=8).preprocess(Image.fromarray(own.pixels))
    with torch.inference_mode():
        posterior = pipeline.vae.encode(pixels).latent_dist
    found = tensors(entry)
    assert found["mean"].shape == (4, 6, 8)
    torch.testing.assert_close(found["mean"], posterior.mean[0], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found["std"], posterior.std[0], atol=1e-6, rtol=1e-4)


def test_a_draw_from_an_entry_is_diffusers_latents(
    encoders: Encoders, base: Expert, pipeline: StableDiffusionXLPipeline
) -> None:
    own = work(encoders)
    vae: AutoencoderKL = pipeline.vae
    pixels = VaeImageProcessor(vae_scale_factor=8).preprocess(Image.fromarray(own.pixels))
    with torch.inference_mode():
        drawn = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(3))
    noise = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(3))
    found = tensors(encoders.encode_images([own])[0])
    latents = base.vae.draw(found["mean"][None], found["std"][None], noise)
    scaled = vae.config.scaling_factor * (found["mean"] + found["std"] * noise[0])
    torch.testing.assert_close(latents, vae.config.scaling_factor * drawn, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(latents[0], scaled)


def test_a_batch_gives_the_bytes_of_one_at_a_time(encoders: Encoders) -> None:
    images = [work(encoders, seed) for seed in range(3)]
    prompts = [encoders.prompt_record(prompt) for prompt in PROMPTS]
    assert encoders.encode(images) == [encoders.encode([image])[0] for image in images]
    assert encoders.encode(prompts) == [encoders.encode([prompt])[0] for prompt in prompts]


def test_both_stages_have_the_same_keys_and_entries(experts: Experts, encoders: Encoders) -> None:
    assert experts.refiner is not None
    refiner = Encoders(experts.refiner)
    assert refiner.prompt_record("a").key() == encoders.prompt_record("a").key()
    assert work(refiner).record.key() == work(encoders).record.key()
    assert refiner.encode([work(refiner)]) == encoders.encode([work(encoders)])


def run_stage(encoders: Encoders, entries: MemoryTier) -> int:
    """Obtain what a stage of a fine-tune needs, and return how many embeddings that encoded."""
    sizes: list[int] = []
    observer = SimpleNamespace(on_batch=lambda *, size, **_: sizes.append(size))
    batcher: Batcher[Work] = Batcher(
        encoders.encode, shape_of=shape_of, entries=entries, observer=observer
    )
    images = [work(encoders, seed) for seed in range(2)]
    prompts = [encoders.prompt_record(prompt) for prompt in PROMPTS]
    futures = [batcher.submit(image.record.key(), image) for image in images]
    futures += [batcher.submit(prompt.key(), prompt) for prompt in prompts]
    assert all(future.result(60.0) for future in futures)
    batcher.close()
    return sum(sizes)


def test_stage_two_encodes_nothing_that_stage_one_did(experts: Experts, encoders: Encoders) -> None:
    assert experts.refiner is not None
    entries = MemoryTier(1 << 26)
    assert run_stage(encoders, entries) == 2 + len(PROMPTS)
    assert run_stage(Encoders(experts.refiner), entries) == 0


@pytest.mark.parametrize("part", ["vae", "text_encoder", "text_encoder_2"])
def test_one_changed_weight_changes_the_keys_it_concerns(
    encoders: Encoders, nano_pair: Path, tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(nano_pair / "base", folder)
    (path,) = (folder / part).glob("*.safetensors")
    weights = load_file(path)
    name = min(weights)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    changed = load_experts(str(folder), None, cache_dir=tmp_path / "cache").base
    assert changed is not None
    other = Encoders(changed)
    is_same_prompt = other.prompt_record("a").key() == encoders.prompt_record("a").key()
    is_same_image = work(other).record.key() == work(encoders).record.key()
    assert (is_same_prompt, is_same_image) == (part == "vae", part != "vae")


def test_entries_are_kept_as_the_settings_say(base: Expert, encoders: Encoders) -> None:
    halved = Encoders(base, EncodingConfig(prompts="float16", images="bfloat16"))
    prompt, image = halved.prompt_record("a"), work(halved)
    found = tensors(halved.encode([prompt])[0]) | tensors(halved.encode([image])[0])
    exact = tensors(encoders.encode([encoders.prompt_record("a")])[0])
    assert prompt.key() != encoders.prompt_record("a").key()
    assert torch.equal(found["hidden"], exact["hidden"].half())
    assert found["mean"].dtype == torch.bfloat16


def test_works_share_a_batch_where_their_pixels_have_one_shape(encoders: Encoders) -> None:
    wide, other, tall = (
        work(encoders, seed, preprocessing)
        for seed, preprocessing in (
            (0, WHOLE),
            (1, WHOLE),
            (0, replace(WHOLE, resized=(48, 64), crop=(0, 0, 48, 64))),
        )
    )
    assert shape_of(wide) == shape_of(other)
    assert shape_of(wide) != shape_of(tall)
    assert shape_of(wide) != shape_of(encoders.prompt_record("a"))
    assert shape_of(encoders.prompt_record("a")) == shape_of(encoders.prompt_record("b"))


def test_refuses_records_of_another_encoder(encoders: Encoders) -> None:
    prompt = encoders.prompt_record("a")
    other = replace(prompt, encoder=replace(prompt.encoder, precision="bfloat16"))
    with pytest.raises(InvalidRequest, match="in bfloat16, kept as float32; here is"):
        encoders.encode([other])


@pytest.mark.parametrize(
    "changed", [{"weights": ("sha256:aa@1.0",)}, {"token_overrides": {"<a>": "sha256:aa"}}]
)
def test_refuses_texts_with_adapters(encoders: Encoders, changed: dict[str, object]) -> None:
    record = replace(encoders.prompt_record("a"), **changed)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="where the adapters are"):
        encoders.encode([record])


def test_refuses_a_text_that_is_too_long_and_a_size_that_is_no_multiple(encoders: Encoders) -> None:
    with pytest.raises(PromptTooLong):
        encoders.prompt_record("red circle " * 60)
    odd = replace(WHOLE, crop=(0, 0, 60, 48))
    with pytest.raises(InvalidRequest, match="60x48 is no multiple of 8 pixels"):
        encoders.image_record(Digest.of_bytes(b""), odd)


def test_long_texts_are_cut_or_go_on_as_asked(encoders: Encoders) -> None:
    text = "red circle " * 60
    cut, chunked = (encoders.prompt_record(text, long_prompt=way) for way in ("truncate", "chunk"))
    found = [tensors(entry)["hidden"] for entry in encoders.encode([cut, chunked])]
    assert [len(hidden) for hidden in found] == [77, 154]
    assert torch.equal(found[0], found[1][:77])


def test_a_full_device_is_told_with_the_size(
    base: Expert, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(base.vae, "posterior", full)
    monkeypatch.setattr(TextEncoders, "encode", full)
    with pytest.raises(OutOfDeviceMemory, match="64x48"):
        encoders.encode([work(encoders)])
    with pytest.raises(OutOfDeviceMemory, match="these texts"):
        encoders.encode([encoders.prompt_record("a")])


def test_a_posterior_that_is_not_finite_is_refused(
    encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Autoencoder, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = torch.full((len(pixels), 4, 6, 8), torch.nan)
        return nothing, nothing

    monkeypatch.setattr(Autoencoder, "posterior", broken)
    with pytest.raises(EmbeddingInvalid, match="not finite"):
        encoders.encode([work(encoders)])

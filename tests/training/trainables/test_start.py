"""Training goes on from an adapter of any format, or says why it cannot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, Magnitude, Stage
from diptych.adapters.bundle import digest_of, to_bytes
from diptych.adapters.reading import read_adapter
from diptych.adapters.registry import Registry
from diptych.adapters.writing import write_adapter
from diptych.errors import AdapterMismatch, AdapterNotFound, InvalidRequest
from diptych.nano.pair import expert_path
from diptych.training.export import export_adapter
from diptych.training.spec import AdapterSpec, TextEncoderSpec
from support.shelves import in_memory, published
from support.trained import batch_of, load, one_step
from support.trained_jobs import job

Small = dict[str, Any]
WRITTEN = Path(__file__).parent / "written_by_others"
START = AdapterSpec(start_from="huggy")
TEXT_LORA = TextEncoderSpec(method="lora", rank=2)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return in_memory(tmp_path / "tier")


def trained_adapter(small: Small, tmp_path: Path, **changes: Any) -> Adapter:
    """Return an adapter that has learned something."""
    spec = job(**small, **changes)
    trained = load(spec, tmp_path)
    batch = batch_of("a cat", None) if trained.trains_text else batch_of()
    for _ in range(2):
        one_step(trained, batch, lr=0.01)
    return export_adapter([trained], spec)


def publish(registry: Registry, adapter: Adapter) -> None:
    published(registry, "huggy", to_bytes(adapter))


@pytest.mark.parametrize(
    ("method", "target_format"),
    [("lora", "bundle"), ("lora", "peft"), ("dora", "diffusers"), ("dora", "kohya")],
)
def test_an_adapter_of_any_format_goes_on_as_it_was(
    method: Any, target_format: str, small: Small, registry: Registry, tmp_path: Path
) -> None:
    patterns = {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_k": 3.0}}
    changes: dict[str, Any] = {"method": method, "text_encoders": TEXT_LORA}
    spec = AdapterSpec(rank=4, targets="linear_conv", rank_stabilised=True, **patterns)  # type: ignore[arg-type]
    adapter = trained_adapter(small, tmp_path, adapter=spec, **changes)
    folder = tmp_path / "file"
    for path, data in write_adapter(adapter, target_format, style="diffusers").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    read = read_adapter(folder, name="huggy")
    publish(registry, read)
    again = load(job(**small, adapter=START, **changes), tmp_path, registry=registry)
    result = export_adapter([again], job(**small, **changes))
    assert digest_of(replace(result, made_for=read.made_for)) == digest_of(read)
    batch = batch_of("a cat", None)
    assert one_step(again, batch) > one_step(again, batch)


def test_a_lora_of_diffusers_own_script_goes_on_training(
    registry: Registry, tmp_path: Path
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        expert_path("base-single"), dtype=torch.float32
    )
    unet, encoders = pipeline.unet, (pipeline.text_encoder, pipeline.text_encoder_2)
    # As train_dreambooth_lora_sdxl.py has it: alpha is the rank, no metadata.
    for network, targets in (
        (unet, ["to_k", "to_q", "to_v", "to_out.0"]),
        *((one, ["q_proj", "k_proj", "v_proj", "out_proj"]) for one in encoders),
    ):
        network.requires_grad_(requires_grad=False)
        config = LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=targets)
        inject_adapter_in_model(config, network)
        for one in network.parameters():
            if one.requires_grad:
                nn.init.normal_(one, std=0.02)
    files = [
        convert_state_dict_to_diffusers(get_peft_model_state_dict(one)) for one in (unet, *encoders)
    ]
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=files[0],
        text_encoder_lora_layers=files[1],
        text_encoder_2_lora_layers=files[2],
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    publish(registry, read_adapter(file, name=file.name))
    trained = load(job(adapter=START, text_encoders=TEXT_LORA), tmp_path, registry=registry)
    noisy, t, told = batch_of("a red circle", "a cat")
    hidden, _, pooled, _ = pipeline.encode_prompt(
        list(told.texts or ()), do_classifier_free_guidance=False
    )
    added = {"text_embeds": pooled, "time_ids": told.time_ids}
    expected = unet(noisy, t, hidden, added_cond_kwargs=added).sample
    predicted = trained.predict(noisy, t, told)
    torch.testing.assert_close(predicted, expected, rtol=0.0, atol=1e-5)
    with trained.without_update():
        assert (trained.predict(noisy, t, told) - expected).abs().max() > 1e-3
    assert one_step(trained, (noisy, t, told)) > one_step(trained, (noisy, t, told))


def test_a_file_that_the_script_itself_wrote_goes_on_training(
    registry: Registry, tmp_path: Path
) -> None:
    """Of examples/text_to_image/train_text_to_image_lora_sdxl.py at 58eb52c, diffusers 0.42.1.

    Six steps of rank 1 on ``nano/base-single``, batches of 2 of eight pictures of `nano pictures
    night` as an image folder: ``--max_train_steps 6 --rank 1 --learning_rate 1e-3 --seed 0``.
    """
    file = WRITTEN / "train_text_to_image_lora_sdxl.safetensors"
    publish(registry, read_adapter(file, name=file.name))
    trained = load(job(adapter=START), tmp_path, registry=registry)
    unet = UNet2DConditionModel.from_pretrained(expert_path("base-single") / "unet")
    unet.load_lora_adapter(load_file(file), prefix="unet")
    noisy, t, told = batch_of()
    added = {"text_embeds": told.pooled, "time_ids": told.time_ids}
    expected = unet.float()(noisy, t, told.prompt_embeds, added_cond_kwargs=added).sample
    torch.testing.assert_close(trained.predict(noisy, t, told), expected, rtol=0.0, atol=1e-5)
    with trained.without_update():
        assert (trained.predict(noisy, t, told) - expected).abs().max() > 1e-3
    assert one_step(trained, (noisy, t, told)) > one_step(trained, (noisy, t, told))


def test_a_refiner_goes_on_from_its_own_factors(
    small: Small, registry: Registry, tmp_path: Path
) -> None:
    adapter = trained_adapter(small, tmp_path, adapter=AdapterSpec(rank=2))
    both = {
        replace(target, component=part): own
        for target, own in adapter.targets.items()
        for part in (Component.UNET, Component.REFINER_UNET)
        if part is Component.UNET or "to_q" in target.module
    }
    made_for = replace(adapter.made_for, stage=Stage.BOTH)
    publish(registry, replace(adapter, targets=both, made_for=made_for))
    spec = job(**small, adapter=START, stage="both", boundary=0.65)
    parts = [load(spec, tmp_path, place=place, registry=registry) for place in (0, 1)]
    sizes = [len(part.state()) for part in parts]
    assert sizes[0] == 4 * sizes[1]


def test_dora_begins_as_the_lora_it_goes_on_from(
    small: Small, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, trained_adapter(small, tmp_path))
    batch = batch_of()
    lora, dora = (
        load(job(**small, adapter=START, method=method), tmp_path, registry=registry)
        for method in ("lora", "dora")
    )
    torch.testing.assert_close(lora.predict(*batch), dora.predict(*batch), rtol=0.0, atol=1e-5)


def per_input(own: LowRank) -> LowRank:
    norms = torch.ones(own.down.shape[1])
    return replace(own, magnitude=Magnitude(norms=norms, per_input=True))


def test_what_cannot_be_trained_on_is_named_all_at_once(
    small: Small, registry: Registry, tmp_path: Path
) -> None:
    adapter = trained_adapter(small, tmp_path, text_encoders=TEXT_LORA)
    targets = {
        target: per_input(own) if "to_q" in target.module else own
        for target, own in adapter.targets.items()
    }
    tokens = {"<s0>": LearnedToken(vectors={Component.TEXT_ENCODER: torch.ones(1, 64)})}
    publish(registry, replace(adapter, targets=targets, tokens=tokens))
    with pytest.raises(InvalidRequest) as refused:
        load(job(**small, adapter=START), tmp_path, registry=registry)
    assert {one.field for one in refused.value.violations} == {"adapter.start_from"}
    said = " ".join(one.description for one in refused.value.violations)
    for part in ("learned tokens", "text_encoder,", "text_encoder_2,", "norms per input"):
        assert part in said


def test_norms_are_not_dropped_silently(small: Small, registry: Registry, tmp_path: Path) -> None:
    publish(registry, trained_adapter(small, tmp_path, method="dora"))
    with pytest.raises(InvalidRequest, match="DoRA norms of unet"):
        load(job(**small, adapter=START), tmp_path, registry=registry)


def test_an_adapter_of_the_other_expert_is_refused(
    small: Small, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, trained_adapter(small, tmp_path))
    spec = job(**small, adapter=START, stage="refiner", boundary=0.65)
    with pytest.raises(InvalidRequest, match="is for base and changes nothing"):
        load(spec, tmp_path, registry=registry)


def test_an_adapter_of_another_model_is_refused(
    small: Small, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, trained_adapter(small, tmp_path))
    with pytest.raises(AdapterMismatch, match=r"weight .*attn"):
        load(job(adapter=START), tmp_path, registry=registry)


def test_an_adapter_that_is_not_there_is_refused(
    small: Small, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(AdapterNotFound):
        load(job(**small, adapter=START), tmp_path, registry=registry)

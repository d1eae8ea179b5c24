"""What a job ends in is used elsewhere as it was trained here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import set_peft_model_state_dict
from torch import Tensor

from diptych.adapters.adapter import Component, MadeFor, Stage
from diptych.adapters.reading import read_adapter
from diptych.adapters.stages import split_stages
from diptych.adapters.writing import write_adapter
from diptych.errors import AdapterInvalid, CheckpointInvalid, InvalidRequest, ModelNotFound
from diptych.models.checkpoint import SourceConfig, locate
from diptych.models.experts import LoadOptions, load_experts
from diptych.models.header import read_header
from diptych.nano.pair import expert_path
from diptych.training.export import export_adapter, export_expert
from diptych.training.spec import AdapterSpec, ModelSpec, ObjectiveSpec, TextEncoderSpec
from diptych.training.trainables.trained_expert import TEXTS, TrainedExpert
from support.small_experts import make_expert
from support.trained import batch_of, load, one_step
from support.trained_jobs import job

RANKS = AdapterSpec(
    rank=4,
    alpha=6.0,
    targets="linear_conv",
    rank_pattern={"to_q": 2},
    alpha_pattern={"to_k": 3.0},
    rank_stabilised=True,
)


def randomised(trained: TrainedExpert, std: float = 0.05) -> TrainedExpert:
    """Give what is trained other weights, as training does."""
    generator = torch.Generator().manual_seed(7)
    state = trained.state()
    for name in sorted(state):
        noise = torch.randn(state[name].shape, generator=generator)
        state[name] = state[name] * (1 + std * noise) if "magnitude" in name else std * noise
    trained.load_state(state)
    return trained


def painted(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    latents: Tensor = pipeline(
        "a red circle on the left",
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    return latents


def stock(**parts: Any) -> Any:
    folder = expert_path("base-single")
    return StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32, **parts)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_paints_in_stock_diffusers_what_its_model_paints_here(
    method: Any, tmp_path: Path
) -> None:
    spec = job(method=method, adapter=RANKS)
    trained = randomised(load(spec, tmp_path))
    files = write_adapter(export_adapter([trained], spec), "diffusers")
    (tmp_path / "lora.safetensors").write_bytes(files["pytorch_lora_weights.safetensors"])
    theirs, ours = stock(), stock(unet=trained.network.unet.eval())
    plain = painted(theirs)
    theirs.load_lora_weights(tmp_path / "lora.safetensors")
    expected = painted(ours)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(painted(theirs), expected, rtol=0.0, atol=1e-4)


def test_dora_in_kohya_s_format_has_a_scale_per_output(tmp_path: Path) -> None:
    spec = job(method="dora")
    (data,) = write_adapter(export_adapter([load(spec, tmp_path)], spec), "kohya").values()
    (tmp_path / "webui.safetensors").write_bytes(data)
    header = read_header(tmp_path / "webui.safetensors")
    scales = {name: one.shape for name, one in header.tensors.items() if "dora_scale" in name}
    ups = [name for name in header.tensors if name.endswith("lora_up.weight")]
    assert len(scales) == len(ups) > 0
    assert all(shape[1:] == (1,) and shape[0] > 1 for shape in scales.values())
    assert not any("magnitude" in name for name in header.tensors)


def test_text_encoders_updates_are_peft_s(small: dict[str, Any], tmp_path: Path) -> None:
    spec = job(**small, text_encoders=TextEncoderSpec(method="lora", rank=2))
    trained, plain = (load(spec, tmp_path) for _ in range(2))
    adapter = export_adapter([randomised(trained)], spec)
    assert adapter.components() == set(Component) - {Component.REFINER_UNET}
    for path, data in write_adapter(adapter, "peft").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    again = read_adapter(tmp_path / "text_encoder_2", name="te2")
    tensors = {}
    for target, own in again.targets.items():
        tensors[f"{target.module}.lora_A.weight"] = own.down
        tensors[f"{target.module}.lora_B.weight"] = own.up
    assert plain.network.texts is not None
    assert trained.network.texts is not None
    encoder: Any = plain.network.texts.text_encoder_2
    loaded: Any = set_peft_model_state_dict(encoder, tensors)
    assert not loaded.unexpected_keys
    ids = torch.arange(77)[None]
    ours: Any = trained.network.texts.text_encoder_2
    expected = ours(ids).text_embeds
    torch.testing.assert_close(encoder(ids).text_embeds, expected)


@pytest.mark.parametrize(
    ("stage", "timesteps"),
    [("base", (350, 999)), ("refiner", (0, 349)), ("both", (0, 999)), ("single", (0, 999))],
)
def test_an_adapter_says_all_that_it_was_made_for(
    stage: Any, timesteps: tuple[int, int], small: dict[str, Any], tmp_path: Path
) -> None:
    boundary = None if stage == "single" else 0.65
    words = ("huggy",)
    objective = ObjectiveSpec(prediction_type="epsilon", zero_snr=False)
    spec = job(**small, stage=stage, boundary=boundary, trigger_words=words, objective=objective)
    places = (0, 1) if stage == "both" else (0,)
    trained = [load(spec, tmp_path, place=place) for place in places]
    adapter = export_adapter(trained, spec)
    assert adapter.trigger_words == words
    assert adapter.made_for == MadeFor(
        family=trained[0].facts.opened.family.name,
        base_fingerprint=trained[0].facts.fingerprint,
        stage=Stage.BASE if stage == "single" else Stage(stage),
        prediction_type="epsilon",
        zero_snr=False,
        timestep_range=timesteps,
    )


def test_what_the_checkpoint_says_is_said_where_the_job_does_not(
    small: dict[str, Any], tmp_path: Path
) -> None:
    made_for = export_adapter([load(job(**small), tmp_path)], job(**small)).made_for
    assert (made_for.prediction_type, made_for.zero_snr) == ("v_prediction", True)
    assert str(made_for.base_fingerprint).startswith("sha256:")


def test_one_adapter_of_both_experts_has_both_experts_factors(tmp_path: Path) -> None:
    model = ModelSpec(source="nano")
    spec = job(model=model, stage="both", boundary=0.65, adapter=AdapterSpec(rank=2))
    trained = [
        randomised(load(spec, tmp_path, place=place), std) for place, std in ((0, 1), (1, 2))
    ]
    adapter = export_adapter(trained, spec)
    assert adapter.components() == {Component.UNET, Component.REFINER_UNET}
    parts = split_stages(adapter)
    assert parts is not None
    for part, one in zip(parts, trained, strict=True):
        own = {t.module: low_rank.down for t, low_rank in part.targets.items()}
        for name, tensor in one.state().items():
            if "lora_A" in name:
                module = name.removeprefix("unet.").partition(".lora_A")[0]
                assert torch.equal(own[module], tensor)


def test_encoders_of_both_experts_are_named_once_as_the_base_trained_them(tmp_path: Path) -> None:
    texts = TextEncoderSpec(method="lora", rank=2)
    model = ModelSpec(source="nano")
    spec = job(model=model, stage="both", boundary=0.65, text_encoders=texts)
    base = randomised(load(spec, tmp_path), 1)
    refiner = load(spec, tmp_path, place=1)
    refiner.fix_texts(base.state())
    randomised(refiner, 2)
    adapter = export_adapter([base, refiner], spec)
    wanted = {Component.TEXT_ENCODER, Component.TEXT_ENCODER_2}
    own = [low_rank.down for t, low_rank in adapter.targets.items() if t.component in wanted]
    told = [one for name, one in base.state().items() if name.startswith(TEXTS) and "_A" in name]
    assert all(torch.equal(one, other) for one, other in zip(own, told, strict=True))
    assert own


def test_an_adapter_that_is_not_finite_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    trained = load(job(**small), tmp_path)
    state = trained.state()
    next(iter(state.values())).fill_(torch.nan)
    trained.load_state(state)
    with pytest.raises(AdapterInvalid, match="NaN"):
        export_adapter([trained], job(**small))


FULL: dict[str, Any] = {"method": "full"}


def config(experts_dir: Path) -> SourceConfig:
    return SourceConfig(cache_dir=experts_dir / "cache", experts_dir=experts_dir)


def test_an_expert_is_served_by_its_name_as_it_was_trained(
    small: dict[str, Any], tmp_path: Path
) -> None:
    texts = TextEncoderSpec(method="full")
    spec = job(**small, **FULL, text_encoders=texts, objective=ObjectiveSpec(zero_snr=True))
    trained = load(spec, tmp_path)
    noisy, t, told = batch_of("a red circle", None)
    one_step(trained, (noisy, t, told))
    exported = export_expert(trained, spec, experts_dir=tmp_path / "experts")
    assert locate("experts/huggy", config(tmp_path / "experts")) == exported.folder
    options = LoadOptions(experts_dir=tmp_path / "experts")
    (served,) = load_experts("experts/huggy", None, cache_dir=tmp_path, options=options).hosted
    with torch.no_grad():
        texts_of = trained.network.texts
        assert texts_of is not None
        hidden, pooled = texts_of(told.texts or ())
        expected = trained.predict(noisy, t, told)
    got = served.unet.predict(
        noisy, t.float(), hidden=hidden, pooled=pooled, time_ids=told.time_ids
    )
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-5)
    for encoder in served.text.encoders:
        for name, one in encoder.module.state_dict().items():
            ours = dict(texts_of.named_children())[encoder.name].state_dict()[name]
            assert torch.equal(one, ours.half().float())  # as the nano model's are stored


def test_an_expert_s_schedule_is_the_one_that_was_trained(tmp_path: Path) -> None:
    base = make_expert(
        tmp_path / "base",
        dtype=torch.float16,
        prediction_type="epsilon",
        rescale_betas_zero_snr=False,
        timestep_spacing="leading",
    )
    objective = ObjectiveSpec(prediction_type="v_prediction", zero_snr=True)
    spec = job(model=ModelSpec(source=str(base)), **FULL, objective=objective)
    trained = load(spec, tmp_path)
    exported = export_expert(trained, spec, experts_dir=tmp_path / "experts")
    said = json.loads((exported.folder / "scheduler" / "scheduler_config.json").read_text())
    assert said["prediction_type"] == "v_prediction"
    assert said["rescale_betas_zero_snr"] is True
    assert said["timestep_spacing"] == "trailing"
    before = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    assert before["timestep_spacing"] == "leading"
    unet = UNet2DConditionModel.from_pretrained(exported.folder / "unet", dtype=torch.float16)
    assert {one.dtype for one in unet.parameters()} == {torch.float16}
    ours = trained.network.unet.state_dict()
    assert all(torch.equal(own, ours[name].half()) for name, own in unet.state_dict().items())
    vae = Path("vae", "diffusion_pytorch_model.safetensors")
    assert (exported.folder / vae).read_bytes() == (base / vae).read_bytes()


def test_updates_of_text_encoders_are_merged_into_a_full_expert(
    small: dict[str, Any], tmp_path: Path
) -> None:
    spec = job(**small, **FULL, text_encoders=TextEncoderSpec(method="lora", rank=2))
    trained = load(spec, tmp_path)
    state = trained.state()
    for name, own in state.items():
        if "lora_" in name:
            own.copy_(0.05 * torch.randn(own.shape, generator=torch.Generator().manual_seed(1)))
    trained.load_state(state)
    export_expert(trained, spec, experts_dir=tmp_path / "experts")
    options = LoadOptions(experts_dir=tmp_path / "experts")
    (served,) = load_experts("experts/huggy", None, cache_dir=tmp_path, options=options).hosted
    ids = torch.arange(77)[None]
    for encoder in served.text.encoders:
        assert trained.network.texts is not None
        ours = dict(trained.network.texts.named_children())[encoder.name]
        with torch.no_grad():
            expected = ours(ids, output_hidden_states=True).hidden_states[-2]
            got = encoder.module(ids, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(got, expected, rtol=0.0, atol=2e-2)


def test_the_name_moves_and_what_it_meant_stays(small: dict[str, Any], tmp_path: Path) -> None:
    spec, experts = job(**small, **FULL), tmp_path / "experts"
    trained = load(spec, tmp_path)
    first, again = (export_expert(trained, spec, experts_dir=experts) for _ in range(2))
    one_step(trained, batch_of())
    second = export_expert(trained, spec, experts_dir=experts)
    assert first == again != second
    assert first.folder.is_dir()
    assert locate("experts/huggy", config(experts)) == second.folder


def test_both_experts_have_names_of_their_own(small: dict[str, Any], tmp_path: Path) -> None:
    spec = job(**small, **FULL, stage="both", boundary=0.65)
    trained = load(spec, tmp_path, place=1)
    exported = export_expert(trained, spec, experts_dir=tmp_path / "experts")
    assert exported.name == "huggy/refiner"
    assert locate("experts/huggy/refiner", config(tmp_path / "experts")) == exported.folder


def test_an_expert_that_is_not_finite_leaves_nothing(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base", dtype=torch.float16)
    spec = job(model=ModelSpec(source=str(base)), **FULL)
    trained = load(spec, tmp_path)
    state = trained.state()
    next(iter(state.values())).fill_(1e6)
    trained.load_state(state)
    with pytest.raises(CheckpointInvalid, match=r"not finite as torch\.float16"):
        export_expert(trained, spec, experts_dir=tmp_path / "experts")
    assert not (tmp_path / "experts").exists()
    with pytest.raises(ModelNotFound):
        locate("experts/huggy", config(tmp_path / "experts"))


@pytest.mark.parametrize("name", ["../huggy", "a/../../b", ".refs/huggy", "sha256/a"])
def test_a_name_that_leads_elsewhere_is_refused(
    name: str, small: dict[str, Any], tmp_path: Path
) -> None:
    spec = job(**small, **FULL, name=name)
    with pytest.raises(InvalidRequest):
        export_expert(load(spec, tmp_path), spec, experts_dir=tmp_path / "experts")

"""What is exported is read back as it was, and computes the same wherever it is loaded."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Magnitude,
    Stage,
    Target,
)
from diptych.adapters.bundle import digest_of, to_bytes
from diptych.adapters.reading import read_adapter
from diptych.adapters.writing import FORMATS, write_adapter
from diptych.errors import ConversionUnsupported, InvalidRequest
from support.adapted_networks import PARTS, run_network, wide_adapter, with_updates
from support.made_adapters import adapters, noise

# PEFT asks transformers by a name that it is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
ANYWHERE = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
TARGET = Target(component=Component.UNET, module="mid_block.attentions.0.proj_in")
UPDATE = LowRank(down=noise(2, 3), up=noise(4, 2), alpha=1.0)
TOKEN = LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 8)})
ADAPTER = Adapter(targets={TARGET: UPDATE}, trigger_words=("huggy",))


def per(norms: torch.Tensor, *, per_input: bool) -> LowRank:
    return replace(UPDATE, magnitude=Magnitude(norms=norms, per_input=per_input))


def written(adapter: Adapter, target_format: str, folder: Path) -> Path:
    """Return ``folder`` with the files of an export in it."""
    for name, data in write_adapter(adapter, target_format).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(adapter=adapters(), target_format=st.sampled_from(FORMATS))
def test_reads_back_as_it_was_or_is_refused(
    adapter: Adapter, target_format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        folder = written(adapter, target_format, tmp_path_factory.mktemp("export"))
    except ConversionUnsupported as error:
        assert error.target_format == target_format  # noqa: PT017 - writing may as well succeed
        assert target_format != "bundle"
        return
    assert digest_of(read_adapter(folder, name="export")) == digest_of(adapter)


@settings(max_examples=20, deadline=None)
@given(adapters(components=ANYWHERE, dora=False, dtypes=(torch.float16,)))
def test_diffusers_can_hold_all_that_has_no_magnitude(adapter: Adapter) -> None:
    write_adapter(adapter, "diffusers")


@settings(max_examples=20, deadline=None)
@given(adapters(dora=False, tokens=False))
def test_peft_can_hold_even_a_refiners_own_factors(adapter: Adapter) -> None:
    write_adapter(adapter, "peft")


SAID_NOWHERE = {
    "tokens": (replace(ADAPTER, tokens={"<s0>": TOKEN}), "peft", "learned tokens"),
    "per input": (
        Adapter(targets={TARGET: per(noise(3), per_input=True)}),
        "diffusers",
        "DoRA norms per input",
    ),
    "per input in PEFT": (
        Adapter(targets={TARGET: per(noise(3), per_input=True)}),
        "peft",
        "DoRA norms per input",
    ),
    "some": (
        Adapter(
            targets={TARGET: per(noise(4), per_input=False), replace(TARGET, module="x"): UPDATE}
        ),
        "peft",
        "DoRA on some targets of unet and not on others",
    ),
    "refiner": (
        Adapter(targets={replace(TARGET, component=Component.REFINER_UNET): UPDATE}),
        "diffusers",
        "a refiner's UNet and nothing for the base",
    ),
    "refiner in kohya": (
        Adapter(targets={replace(TARGET, component=Component.REFINER_UNET): UPDATE}),
        "kohya",
        "refiner",
    ),
    "precision": (
        Adapter(
            tokens={
                "a": TOKEN,
                "b": LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 8).half()}),
            }
        ),
        "diffusers",
        "learned tokens of unlike width or precision",
    ),
    "metadata": (replace(ADAPTER, metadata={"format": "x"}), "peft", "carried metadata 'format'"),
}


@pytest.mark.parametrize(
    ("adapter", "target_format", "content"), SAID_NOWHERE.values(), ids=SAID_NOWHERE
)
def test_names_what_a_format_cannot_say(adapter: Adapter, target_format: str, content: str) -> None:
    with pytest.raises(
        ConversionUnsupported, match=f"format {target_format} cannot hold.*{content}"
    ):
        write_adapter(adapter, target_format)


def test_there_is_no_other_format() -> None:
    with pytest.raises(InvalidRequest, match="format: 'onnx' is not one of bundle, diffusers"):
        write_adapter(ADAPTER, "onnx")


def test_a_bundle_is_the_bundle() -> None:
    assert write_adapter(ADAPTER, "bundle") == {"adapter.safetensors": to_bytes(ADAPTER)}


def test_tokens_lie_beside_the_updates_in_diffusers_export() -> None:
    files = write_adapter(replace(ADAPTER, tokens={"<s0>": TOKEN}), "diffusers")
    assert sorted(files) == ["pytorch_lora_weights.safetensors", "tokens_emb.safetensors"]


@pytest.mark.parametrize("target_format", ["diffusers", "kohya"])
def test_a_refiners_own_factors_are_a_file_of_their_own(target_format: str) -> None:
    own = {TARGET: UPDATE, replace(TARGET, component=Component.REFINER_UNET): UPDATE}
    files = write_adapter(Adapter(targets=own, made_for=MadeFor(stage=Stage.BOTH)), target_format)
    assert [name.partition("/")[0] for name in files] == ["base", "refiner"]
    stages = [read_adapter(data, name=name).made_for.stage for name, data in files.items()]
    assert stages == [Stage.BASE, Stage.REFINER]


@pytest.fixture(scope="module")
def pipeline(nano_pair: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "dora"])
def whole(request: pytest.FixtureRequest, pipeline: Any) -> Adapter:
    """Return an adapter of every kind of layer of mixed ranks and alphas, plain or decomposed."""
    return wide_adapter(pipeline, dora=request.param)


@pytest.fixture(scope="module")
def in_diffusers(whole: Adapter, pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the pipeline with the exported adapter, loaded by diffusers."""
    theirs = copy.deepcopy(pipeline)
    theirs.load_lora_weights(written(whole, "diffusers", tmp_path_factory.mktemp("diffusers")))
    return theirs


@pytest.mark.parametrize("part", PARTS)
def test_diffusers_computes_what_the_updates_do(
    whole: Adapter, in_diffusers: Any, pipeline: Any, part: Component
) -> None:
    expected = run_network(with_updates(pipeline, whole, part), part)
    assert (expected - run_network(getattr(pipeline, part), part)).abs().max() > 0.05
    found = run_network(getattr(in_diffusers, part), part)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_peft_computes_what_the_updates_do(
    whole: Adapter, pipeline: Any, part: Component, tmp_path: Path
) -> None:
    folder = written(whole, "peft", tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(getattr(pipeline, part)), folder / part)
    expected = run_network(with_updates(pipeline, whole, part), part)
    torch.testing.assert_close(run_network(theirs, part), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_reads_what_peft_saves(
    pipeline: Any, part: Component, use_dora: bool, tmp_path: Path
) -> None:
    ends = ["attn1.to_q", "0.conv1"] if part is Component.UNET else ["q_proj", "fc1"]
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=ends,
        rank_pattern={ends[1]: 2},
        alpha_pattern={ends[1]: 3},
        use_rslora=True,
        use_dora=use_dora,
        init_lora_weights=False,
    )
    theirs = PeftModel(copy.deepcopy(getattr(pipeline, part)), config)
    theirs.save_pretrained(str(tmp_path))
    adapter = read_adapter(tmp_path, name="saved")
    expected = run_network(theirs, part)
    found = run_network(with_updates(pipeline, adapter, part), part)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_diffusers_loads_each_learned_token(pipeline: Any, tmp_path: Path) -> None:
    width = pipeline.text_encoder.config.hidden_size
    tokens = {
        text: LearnedToken(vectors=dict.fromkeys(PARTS[1:], noise(1, width, seed=seed)))
        for seed, text in enumerate(["<s0>", "<s1>"])
    }
    folder = written(Adapter(tokens=tokens), "diffusers", tmp_path)
    rows = load_file(folder / "tokens_emb.safetensors")
    theirs = copy.deepcopy(pipeline)
    theirs.load_textual_inversion(
        rows["clip_g"],
        token=["<s0>", "<s1>"],
        text_encoder=theirs.text_encoder_2,
        tokenizer=theirs.tokenizer_2,
    )
    index = theirs.tokenizer_2.convert_tokens_to_ids("<s1>")
    found = theirs.text_encoder_2.get_input_embeddings().weight[index]
    assert torch.equal(found, tokens["<s1>"].vectors[Component.TEXT_ENCODER_2][0])


def test_peft_configuration_names_the_model_it_is_for() -> None:
    config = json.loads(write_adapter(ADAPTER, "peft")["unet/adapter_config.json"])
    assert config["auto_mapping"]["base_model_class"] == "UNet2DConditionModel"

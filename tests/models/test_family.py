"""A family is told from configurations, and an override must fit what was built."""

from typing import Any

import pytest

from diptych.errors import CheckpointInvalid, SettingInvalid
from diptych.models.family import FAMILIES, detect_family

UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 128,
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
}
REFINER = UNET | {
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
    "down_block_types": [
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "transformer_layers_per_block": 4,
}
NANO = UNET | {
    "cross_attention_dim": 128,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 256,
    "layers_per_block": 1,
}
EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
EDM = {"_class_name": "EDMDPMSolverMultistepScheduler"}


def detect(unet: dict[str, Any], **changes: Any) -> str:
    settings: dict[str, Any] = {
        "source": "some/model",
        "scheduler": EULER,
        "has_text_encoder": unet["cross_attention_dim"] != 1280,
        "pooled_dim": 64 if unet["addition_time_embed_dim"] == 32 else 1280,
        "override": None,
    } | changes
    return detect_family(
        settings["source"],
        unet=unet,
        text_encoder_2={"projection_dim": settings["pooled_dim"]},
        scheduler=settings["scheduler"],
        has_text_encoder=settings["has_text_encoder"],
        override=settings["override"],
    ).name


@pytest.mark.parametrize(
    ("name", "unet", "scheduler"),
    [
        ("sdxl-base", UNET, EULER),
        ("sdxl-refiner", REFINER, EULER),
        ("ssd-1b", UNET | {"transformer_layers_per_block": [0, [2, 2], [4, 4]]}, EULER),
        ("segmind-vega", UNET | {"transformer_layers_per_block": [1, 1, 2]}, EULER),
        ("playground-v2.5", UNET, EDM),
        ("sdxl-turbo", UNET, TURBO),
        ("nano", NANO, EULER),
        ("custom", UNET | {"transformer_layers_per_block": [1, 2, 6]}, EULER),
    ],
)
def test_detects_each_family(name: str, unet: dict[str, Any], scheduler: dict[str, Any]) -> None:
    assert detect(unet, scheduler=scheduler) == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("ByteDance/SDXL-Lightning", "sdxl-lightning"),
        ("/models/dreamshaperXL_turbo.safetensors", "sdxl-turbo"),
        ("/models/lightning/base", "sdxl-base"),
    ],
)
def test_tells_distillations_by_the_name_of_their_source(source: str, name: str) -> None:
    assert detect(UNET, source=source) == name


def test_override_decides_between_families_built_alike() -> None:
    assert detect(UNET, override="sdxl-lightning") == "sdxl-lightning"


def test_refuses_an_override_the_checkpoint_was_not_built_as() -> None:
    with pytest.raises(CheckpointInvalid, match="cross_attention_dim 2048, expected 1280"):
        detect(UNET, override="sdxl-refiner")


def test_refuses_an_unknown_override() -> None:
    with pytest.raises(SettingInvalid, match="unknown family 'sd15'") as raised:
        detect(UNET, override="sd15")
    assert raised.value.violations[0].field == "family"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"addition_embed_type": None}, "SDXL's is 'text_time'"),
        ({"in_channels": 9}, "9 channels in and 4 out"),
        ({"projection_class_embeddings_input_dim": 2817}, "SDXL has 5 or 6 ids"),
        ({"projection_class_embeddings_input_dim": "2816"}, "expected a size"),
        ({"addition_time_embed_dim": 0}, "expected a size"),
        ({"addition_time_embed_dim": True}, "expected a size"),
        ({"down_block_types": None}, "down_block_types"),
        ({"transformer_layers_per_block": [1, 2]}, "transformer layers for 2"),
    ],
)
def test_refuses_a_unet_that_is_not_of_this_kind(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointInvalid, match=problem):
        detect(UNET | change, pooled_dim=1280)


def ids(name: str) -> tuple[float, ...]:
    return FAMILIES[name].time_ids(
        original_size=(1024, 768), crop_top_left=(1, 2), target_size=(512, 640), aesthetic_score=6.0
    )


def test_base_is_told_the_target_size() -> None:
    assert ids("sdxl-base") == (1024, 768, 1, 2, 512, 640)


def test_refiner_is_told_the_aesthetic_score() -> None:
    assert ids("sdxl-refiner") == (1024, 768, 1, 2, 6)


@pytest.mark.parametrize("name", ["sdxl-turbo", "sdxl-lightning"])
def test_few_step_families_go_without_guidance(name: str) -> None:
    family = FAMILIES[name]
    assert (family.default_guidance_scale, family.timestep_spacing) == (0.0, "trailing")


def test_custom_family_takes_its_size_from_the_unet() -> None:
    family = detect_family(
        "here",
        unet=UNET | {"transformer_layers_per_block": [1, 1, 1], "sample_size": 64},
        text_encoder_2={"projection_dim": 1280},
        scheduler=EULER,
        has_text_encoder=True,
    )
    assert (family.name, family.default_size) == ("custom", 512)

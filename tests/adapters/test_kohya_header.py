"""A header's ``ss_*`` and ``modelspec.*`` say what an adapter was made for; ours says all of it."""

import json

import pytest

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Stage, Target
from diptych.adapters.keymap import NANO_LAYOUT, REFINER_LAYOUT, SDXL_LAYOUT
from diptych.adapters.kohya_header import FACTS_KEY, layout_of, read_header, write_header
from diptych.errors import AdapterInvalid
from support.made_adapters import noise

KOHYAS = {
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_zero_terminal_snr": "True",
    "ss_network_dim": "16",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.prediction_type": "v",
    "modelspec.timestep_range": "350,1000",
    "modelspec.trigger_phrase": "huggy, a toy ",
    "sshs_model_hash": "abc",
    "format": "pt",
}
TARGET = Target(component=Component.UNET, module="conv_out")
WHOLE = Adapter(
    targets={TARGET: LowRank(down=noise(2, 5, 3, 3), up=noise(4, 2), alpha=1.0)},
    made_for=MadeFor(
        family="sdxl-base",
        stage=Stage.BOTH,
        base_fingerprint="f",
        prediction_type="v_prediction",
        zero_snr=True,
        timestep_range=(350, 999),
    ),
    trigger_words=("a, b", ""),
    metadata={"ss_seed": "1", "ss_network_dim": "odd"},
)


def test_reads_what_kohyas_trainer_says() -> None:
    header = read_header(KOHYAS, source="file")
    assert header.made_for == MadeFor(
        family="sdxl-base",
        prediction_type="v_prediction",
        zero_snr=True,
        timestep_range=(350, 999),
    )
    assert header.trigger_words == ("huggy", "a toy")


def test_carries_all_but_what_describes_the_file() -> None:
    left_out = {"sshs_model_hash", "format"}
    carried = read_header(KOHYAS, source="file").metadata
    assert carried == {key: text for key, text in KOHYAS.items() if key not in left_out}


def test_an_empty_header_says_nothing() -> None:
    header = read_header({}, source="file")
    assert (header.made_for, header.trigger_words, header.layout) == (MadeFor(), (), None)


def test_a_refiners_architecture_is_a_stage() -> None:
    texts = {"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora"}
    header = read_header(texts, source="file")
    assert (header.made_for.family, header.made_for.stage) == ("sdxl-refiner", Stage.REFINER)


def test_keeps_the_name_of_a_family_that_is_not_ours() -> None:
    texts = {"modelspec.architecture": "stable-diffusion-v1/lora"}
    assert read_header(texts, source="file").made_for.family == "stable-diffusion-v1"


@pytest.mark.parametrize(
    ("text", "timesteps"),
    [
        ("0,1000", (0, 999)),
        ("5,5", (5, 5)),
        ("700, 200", None),
        ("all", None),
        ("-1,3", None),
        ("", None),
    ],
)
def test_the_last_timestep_itself_was_not_trained(
    text: str, timesteps: tuple[int, int] | None
) -> None:
    header = read_header({"modelspec.timestep_range": text}, source="file")
    assert header.made_for.timestep_range == timesteps


def test_what_is_written_reads_back_whole() -> None:
    header = read_header(write_header(WHOLE, SDXL_LAYOUT), source="file")
    found = (header.made_for, header.trigger_words, header.metadata)
    assert found == (WHOLE.made_for, WHOLE.trigger_words, WHOLE.metadata)


def test_what_is_written_tells_how_blocks_are_counted() -> None:
    header = read_header(write_header(WHOLE, NANO_LAYOUT), source="file")
    assert header.layout == NANO_LAYOUT


def test_others_read_what_is_written() -> None:
    texts = write_header(WHOLE, SDXL_LAYOUT)
    texts.pop(FACTS_KEY)
    made_for = read_header(texts, source="file").made_for
    assert made_for == MadeFor(
        family="sdxl-base",
        prediction_type="v_prediction",
        zero_snr=True,
        timestep_range=(350, 999),
    )


def test_what_was_carried_is_not_overwritten() -> None:
    assert write_header(WHOLE, SDXL_LAYOUT)["ss_network_dim"] == "odd"


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"made_for": []}, {"added": [1]}, {"trigger_words": None}],
)
def test_refuses_facts_that_it_did_not_write(change: dict[str, object]) -> None:
    texts = write_header(WHOLE, SDXL_LAYOUT)
    texts[FACTS_KEY] = json.dumps({**json.loads(texts[FACTS_KEY]), **change})
    with pytest.raises(AdapterInvalid, match="which this version did not write"):
        read_header(texts, source="file")


def test_refuses_facts_that_are_no_json() -> None:
    with pytest.raises(AdapterInvalid):
        read_header({FACTS_KEY: "{"}, source="file")


@pytest.mark.parametrize(
    ("family", "is_refiner", "layout"),
    [
        ("nano", False, NANO_LAYOUT),
        ("sdxl-refiner", True, REFINER_LAYOUT),
        ("ssd-1b", False, SDXL_LAYOUT),
        (None, True, REFINER_LAYOUT),
        (None, False, SDXL_LAYOUT),
    ],
)
def test_blocks_are_counted_as_the_family_has_them(
    family: str | None, is_refiner: bool, layout: object
) -> None:
    assert layout_of(family, is_refiner=is_refiner) == layout

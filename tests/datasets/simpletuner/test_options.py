"""Each option is read as SimpleTuner reads it, and answered for."""

from typing import Any

import pytest

from diptych.datasets.simpletuner.options import GLOBALS
from diptych.errors import DatasetInvalid
from support.simpletuner_options import Entry


def test_what_an_entry_says_comes_before_what_all_say() -> None:
    entry = Entry({"resolution": 512, "resolution_type": "area"}, resolution=768, seed=None)
    assert entry.options.get("resolution") == 768
    assert entry.options.get("resolution_type") == "area"
    assert entry.options.own("resolution_type") is None
    assert entry.options.get("seed", 3) == 3


@pytest.mark.parametrize("empty", [None, ""])
def test_what_is_empty_is_not_set(empty: object) -> None:
    entry = Entry({"resolution": 512}, resolution=empty)
    assert entry.options.number("resolution") == 512


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (0.5, 0.5), ("1024", 1024.0)])
def test_numbers_may_be_texts(value: object, number: float) -> None:
    assert Entry(x=value).options.number("x") == number


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), (0, False), ("true", True), ("No", False), ("off", False), (None, False)],
)
def test_flags_may_be_texts(value: object, flag: bool) -> None:
    assert Entry(x=value).options.flag("x") is flag


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("number", "wide"),
        ("number", [1]),
        ("count", 1.5),
        ("flag", "perhaps"),
        ("flag", []),
        ("text", 3),
        ("mapping", [1]),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(read: str, value: object) -> None:
    with pytest.raises(DatasetInvalid, match=r"one: x: .* is not "):
        getattr(Entry(x=value).options, read)("x")


def test_a_choice_is_one_of_its_words() -> None:
    with pytest.raises(DatasetInvalid, match="one: x: d is not one of a, b"):
        Entry(x="d").options.choice("x", ("a", "b"), "a")


def test_what_was_read_is_honoured_and_what_is_unknown_is_named() -> None:
    entry = Entry(repeats=1, sauce=2, _comment="mine")
    entry.options.get("repeats")
    assert entry.said() == {"id": "honoured", "repeats": "honoured", "sauce": "unsupported"}


@pytest.mark.parametrize(
    ("option", "value", "outcome"),
    [
        ("skip_file_discovery", "vae", "ignored"),
        ("write_batch_size", 128, "ignored"),
        ("cache_dir_vae", "/x", "ignored"),
        ("delete_unwanted_images", True, "refused"),
        ("delete_problematic_images", "true", "refused"),
        ("delete_nsfw_images", False, "ignored"),
        ("slider_strength", 0.5, "unsupported"),
        ("slider_strength", 0, "ignored"),
        ("grounding", {"enabled": True}, "unsupported"),
        ("grounding", {"enabled": False}, "ignored"),
        ("conditioning", [{"type": "canny"}], "unsupported"),
        ("conditioning", [], "ignored"),
        ("timestep_sampling_offset", 0.3, "ignored"),
    ],
)
def test_options_that_nothing_reads_are_answered_for(
    option: str, value: object, outcome: str
) -> None:
    assert Entry(**{option: value}).said()[option] == outcome


def test_secrets_are_not_shown() -> None:
    entry = Entry(aws_secret_access_key="xyz", aws_access_key_id="wpz", hf_token="hf", a="b" * 99)
    entry.said()
    shown = {one.option: one.value for one in entry.all}
    assert {shown[key] for key in shown if key not in {"a", "id"}} == {"***"}
    assert len(shown["a"]) == 63


def test_an_entry_that_cannot_be_said_is_one_answer() -> None:
    entry = Entry(type="local", x=1)
    entry.options.drop("no")
    assert entry.said() == {"*": "unsupported"}


def test_a_part_s_options_are_answered_for_by_their_own_names() -> None:
    entry = Entry(parquet={"path": "x", "sauce": 1})
    part = entry.options.part("parquet")
    part.text("path")
    part.finish()
    said: dict[str, Any] = entry.said()
    assert (said["parquet.path"], said["parquet.sauce"]) == ("honoured", "unsupported")


def test_a_global_option_that_is_heeded_is_answered_for_where_it_is() -> None:
    entry = Entry({"caption_dropout_probability": 0.1})
    entry.options.say("caption_dropout_probability", "differs", "so")
    entry.options.say("max_upscale_threshold", "differs", "not set anywhere")
    assert entry.said() == {"id": "honoured", "caption_dropout_probability": "differs"}


def test_global_options_are_those_about_datasets() -> None:
    assert "resolution" in GLOBALS
    assert "learning_rate" not in GLOBALS

"""Captions come from where they came from, and read the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from diptych.datasets.simpletuner.captions import captions_of, filters_of
from diptych.errors import DatasetInvalid
from support.simpletuner_options import Entry


def captions(**values: Any) -> dict[str, Any]:
    return captions_of(Entry(**values).options, [])


def test_a_name_s_underscores_are_spaces() -> None:
    assert captions() == {
        "strategy": "file_name",
        "filters": [{"pattern": "_", "replacement": " "}],
    }


def test_texts_beside_images_are_split_unless_that_is_disabled() -> None:
    assert captions(caption_strategy="textfile") == {"strategy": "text_file"}
    found = captions(caption_strategy="textfile", disable_multiline_split=True)
    assert found == {"strategy": "text_file", "split_lines": False}


def test_one_prompt_may_stand_for_all() -> None:
    expected = {"strategy": "instance_prompt", "instance_prompt": "a cat"}
    assert captions(caption_strategy="instanceprompt", instance_prompt="a cat") == expected
    found = captions(
        caption_strategy="textfile",
        only_instance_prompt=True,
        instance_prompt=["a cat"],
        prepend_instance_prompt=True,
    )
    assert found == expected


def test_several_prompts_are_named() -> None:
    entry = Entry(caption_strategy="instanceprompt", instance_prompt=["a cat", "a dog"])
    assert captions_of(entry.options, [])["instance_prompt"] == "a cat"
    assert entry.said()["instance_prompt"] == "unsupported"


def test_a_prompt_is_prepended_only_if_asked_for() -> None:
    values = {"caption_strategy": "textfile", "instance_prompt": "sks"}
    assert captions(**values) == {"strategy": "text_file"}
    assert captions(prepend_instance_prompt=True, **values) == {
        "strategy": "text_file",
        "instance_prompt": "sks",
        "prepend_instance_prompt": True,
    }


@pytest.mark.parametrize(
    "values",
    [
        {
            "caption_strategy": "parquet",
            "parquet": {"caption_column": "a", "fallback_caption_column": "b"},
        },
        {"type": "huggingface", "caption_column": "a", "fallback_caption_column": "b"},
        {
            "type": "huggingface",
            "caption_strategy": "huggingface",
            "huggingface": {"caption_column": ["a"], "fallback_caption_column": "b"},
        },
    ],
)
def test_captions_of_a_table_are_a_column_s(values: dict[str, Any]) -> None:
    assert captions(**values) == {"strategy": "column", "column": "a", "fallback_column": "b"}


def test_captions_of_a_csv_are_a_column_s() -> None:
    found = captions(type="csv", caption_strategy="csv", csv_caption_column="a")
    assert found == {"strategy": "column", "column": "a"}


@pytest.mark.parametrize("column", [["a", "b"], "metadata.caption"])
def test_several_columns_and_columns_inside_others_are_named(column: object) -> None:
    entry = Entry(type="huggingface", caption_column=column)
    captions_of(entry.options, [])
    assert entry.said()["caption_column"] == "unsupported"


def test_a_table_without_a_column_of_captions_is_named() -> None:
    entry = Entry(caption_strategy="parquet", parquet={"path": "x.parquet"})
    captions_of(entry.options, [])
    assert entry.said()["parquet"] == "unsupported"


def test_captions_of_tars_are_the_texts_in_them() -> None:
    entry = Entry(type="webshart")
    assert captions_of(entry.options, []) == {"strategy": "text_file"}


def test_a_global_strategy_stands_behind_but_not_behind_the_hub() -> None:
    defaults = {"caption_strategy": "textfile"}
    assert captions_of(Entry(defaults).options, [])["strategy"] == "text_file"
    assert captions_of(Entry(defaults, type="huggingface").options, [])["strategy"] == "column"


def test_shuffled_tags_have_their_counterpart() -> None:
    shuffle = {"enable": True, "count": 3, "split_on": "period", "position_start": 1}
    entry = Entry({"seed": 7}, caption_shuffle={**shuffle, "include_original": False})
    assert captions_of(entry.options, [])["shuffle"] == {
        "num_variants": 3,
        "separator": ".",
        "num_kept": 1,
        "include_original": False,
        "seed": 7,
    }
    assert captions(caption_shuffle={**shuffle, "seed": 9})["shuffle"]["seed"] == 9
    assert "shuffle" not in captions(caption_shuffle={"enable": False, "count": 3})


def test_dropped_captions_are_a_share() -> None:
    entry = Entry({"caption_dropout_probability": 0.1})
    assert captions_of(entry.options, [])["dropout"] == 0.1
    assert entry.said()["caption_dropout_probability"] == "differs"


def filtered(text: str, given: Any, base: Path = Path()) -> str:
    for one in filters_of(Entry(caption_filter_list=given).options, base):
        text = re.sub(one["pattern"], one.get("replacement", ""), text)
    return text


@pytest.mark.parametrize(
    ("given", "text", "expected"),
    [
        (["arafed "], "arafed cat", "cat"),
        (["^a "], "a cat a dog", "cat a dog"),
        (["s/cat/dog/"], "cat and cat", "dog and dog"),
        (["s/cat/dog"], "cat", "dog"),
        (["s/cat/"], "cat!", "!"),
        (["(x)"], "a (x) b x", "a  b "),
        (["(2020"], "a (2020", "a "),
        (["this .* has a "], "this one has a tail", "tail"),
        ([], "cat", "cat"),
    ],
)
def test_filters_do_what_their_manual_says(given: list[str], text: str, expected: str) -> None:
    assert filtered(text, given) == expected


def test_filters_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("arafed \n\ns/cat/dog/\n")
    (tmp_path / "list.json").write_text('["arafed ", "s/cat/dog/"]')
    for name in ("list.txt", "list.json"):
        assert filtered("arafed cat", name, tmp_path) == "dog"


@pytest.mark.parametrize("given", ["none.txt", [1], {"a": 1}])
def test_filters_that_are_none_are_refused_by_name(given: object, tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="one: caption_filter_list"):
        filters_of(Entry(caption_filter_list=given).options, tmp_path)

"""A file of SimpleTuner's becomes a manifest, every option of it answered for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from diptych.datasets.manifest import parse_manifest
from diptych.datasets.simpletuner.conversion import Conversion, convert_simpletuner, read_json
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import CaptionFilter, DatasetSpec
from diptych.errors import DatasetInvalid

BASE = Path("/base")
TEXTS = {"id": "texts", "type": "local", "dataset_type": "text_embeds", "default": True}
EVERY_OPTION: Mapping[str, Any] = {
    "id": "cats",
    "type": "local",
    "dataset_type": "image",
    "disabled": False,
    "instance_data_dir": "cats",
    "cache_dir_vae": "/vae",
    "text_embeds": "texts",
    "image_embeds": "latents",
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "minimum_image_size": 512,
    "maximum_image_size": 2048,
    "target_downsample_size": 1280,
    "minimum_aspect_ratio": 0.5,
    "maximum_aspect_ratio": 2.0,
    "max_upscale_threshold": 0.5,
    "crop": True,
    "crop_style": "random",
    "crop_aspect": "closest",
    "crop_aspect_buckets": [1.0, 0.75],
    "caption_strategy": "parquet",
    "disable_multiline_split": True,
    "instance_prompt": "a cat",
    "prepend_instance_prompt": True,
    "only_instance_prompt": False,
    "caption_shuffle": {"enable": True, "count": 2, "seed": 3, "split_on": "comma"},
    "metadata_backend": "parquet",
    "parquet": {
        "path": "cats.parquet",
        "filename_column": "id",
        "caption_column": "long",
        "fallback_caption_column": "short",
        "width_column": "w",
        "height_column": "h",
        "identifier_includes_extension": False,
    },
    "metadata_update_interval": 3600,
    "probability": 0.5,
    "repeats": 3,
    "train_batch_size": 4,
    "max_num_samples": 100,
    "start_epoch": 2,
    "start_step": 5,
    "end_epoch": 9,
    "end_step": 900,
    "vae_cache_ondemand": True,
    "vae_cache_disable": False,
    "vae_cache_clear_each_epoch": True,
    "skip_file_discovery": "vae",
    "preserve_data_backend_cache": True,
    "scan_for_errors": True,
    "write_batch_size": 64,
    "text_encoder_batch_size": 2,
    "conditioning_data": "masks",
    "is_regularisation_data": True,
    "delete_unwanted_images": True,
    "delete_problematic_images": True,
    "delete_nsfw_images": True,
}
"""Every option of a local dataset of images that SDXL heeds."""
OTHERS = [
    {
        "id": "masks",
        "type": "local",
        "dataset_type": "conditioning",
        "conditioning_type": "segmentation",
        "source_dataset_id": "cats",
        "instance_data_dir": "masks",
        "resolution": 1024,
        "caption_strategy": "textfile",
    },
    {"id": "latents", "type": "local", "dataset_type": "image_embeds", "disabled": False},
    {
        **TEXTS,
        "cache_dir": "/texts",
        "caption_filter_list": ["arafed "],
        "text_cache_ondemand": True,
        "write_batch_size": 128,
    },
]


def convert(*entries: Mapping[str, Any], **options: Any) -> Conversion:
    data = json.dumps(list(entries)).encode()
    return convert_simpletuner(data, base=BASE, **options)


def dataset(*entries: Mapping[str, Any], **options: Any) -> DatasetSpec:
    return convert(*entries, **options).manifest.datasets[0]


def simple(**values: Any) -> dict[str, Any]:
    return {"id": "one", "type": "local", "instance_data_dir": "in", **values}


def test_every_option_is_answered_for_and_none_is_lost() -> None:
    found = convert(EVERY_OPTION, *OTHERS)
    answered = {one.option for one in found.said if one.entry == "cats"}
    assert answered == set(EVERY_OPTION)
    assert found.unsupported == ()
    assert [one for one in found.said if one.entry == "cats" and "not heeded" in one.detail] == []
    assert {one.option for one in found.said if one.outcome == "refused"} == {
        "delete_unwanted_images",
        "delete_problematic_images",
        "delete_nsfw_images",
    }


def test_what_an_entry_wants_is_what_the_dataset_says() -> None:
    spec = dataset(EVERY_OPTION, *OTHERS)
    assert (spec.id, spec.kind, spec.disabled) == ("cats", "regularisation", False)
    assert spec.captions.filters == (CaptionFilter(pattern="arafed "),)
    assert (spec.captions.column, spec.captions.fallback_column) == ("long", "short")
    assert (spec.size.target, spec.size.max_upscale) == (1280.0, 1.5)
    assert (spec.crop.style, spec.crop.aspects) == ("random", (1.0, 0.75))
    assert (spec.sampling.repeats, spec.sampling.end_step) == (4, 900)
    assert (spec.cache.images, spec.cache.prompts) == ("on_demand", "on_demand")
    assert spec.masks is not None
    assert (spec.masks.binary, spec.masks.source) == (
        True,
        FolderSource(path="/base/masks", links="follow"),
    )


def test_the_text_reads_back_as_the_manifest_and_says_what_was_changed() -> None:
    found = convert(EVERY_OPTION, *OTHERS)
    assert parse_manifest(found.text.encode(), folder=Path("/elsewhere")) == found.manifest
    lines = found.text.splitlines()
    above = lines[lines.index("datasets:") : lines.index("- id: cats")]
    assert "# translated: repeats 3 - repeats: 4; 0 there means seen once" in above
    assert any("refused: delete_unwanted_images" in line for line in above)


def test_an_id_may_say_anything() -> None:
    found = convert(simple(id="a b"), simple(id="a-b"), simple(id="# \n-é"))
    assert [one.id for one in found.manifest.datasets] == ["a-b", "a-b-", "dataset"]
    assert parse_manifest(found.text.encode(), folder=BASE) == found.manifest


def test_global_options_stand_behind_all() -> None:
    defaults = {
        "resolution": 512,
        "caption_strategy": "textfile",
        "data_backend_sampling": "uniform",
        "masked_loss_probability": 0.5,
        "learning_rate": 1.0,
        "delete_unwanted_images": True,
    }
    found = convert(simple(), simple(id="two", resolution=768), defaults=defaults)
    assert [one.size.resolution for one in found.manifest.datasets] == [512.0, 768.0]
    assert found.manifest.datasets[0].captions.strategy == "text_file"
    assert found.manifest.draw == "uniform"
    outcomes = {one.option: one.outcome for one in found.said if one.entry == "defaults"}
    assert outcomes == {
        "resolution": "honoured",
        "caption_strategy": "honoured",
        "data_backend_sampling": "translated",
        "masked_loss_probability": "ignored",
        "delete_unwanted_images": "refused",
    }


def test_a_dataset_without_a_strategy_takes_its_files_names() -> None:
    assert dataset(simple()).captions.strategy == "file_name"
    assert convert(simple()).manifest.draw == "weighted"


def test_text_embeds_are_the_default_ones_or_those_named() -> None:
    other = {**TEXTS, "id": "other", "default": False, "caption_filter_list": ["b"]}
    texts = {**TEXTS, "caption_filter_list": ["a"]}
    for named, pattern in ((None, "a"), ("other", "b")):
        entry = simple(caption_strategy="textfile", text_embeds=named)
        assert dataset(entry, other, texts).captions.filters[0].pattern == pattern
    with pytest.raises(DatasetInvalid, match="one: text_embeds: no entry 'none' of them"):
        convert(simple(text_embeds="none"), texts)


@pytest.mark.parametrize("values", [{"disabled": True}, {"disable": True}, {"probability": 0}])
def test_what_is_never_seen_is_disabled(values: dict[str, Any]) -> None:
    assert dataset(simple(**values)).disabled


def test_an_evaluation_set_is_one() -> None:
    assert dataset(simple(dataset_type="eval")).kind == "eval"


@pytest.mark.parametrize("spelt", ["is_regularisation_data", "is_regularization_data"])
def test_regularisation_is_spelt_both_ways(spelt: str) -> None:
    assert dataset(simple(**{spelt: True})).kind == "regularisation"


def test_a_mask_may_name_its_images_or_be_named_by_them() -> None:
    mask = {**OTHERS[0], "conditioning_type": "mask", "id": "m"}
    named = dataset(simple(conditioning_data=["m"]), {**mask, "source_dataset_id": None})
    naming = dataset(simple(), {**mask, "source_dataset_id": "one"})
    assert named.masks == naming.masks
    assert named.masks is not None
    assert not named.masks.binary


def test_a_binary_mask_is_used_as_often_as_it_was() -> None:
    mask = {**OTHERS[0], "source_dataset_id": "one"}
    spec = dataset(simple(), mask, defaults={"masked_loss_probability": 0.25})
    assert spec.masks is not None
    assert spec.masks.probability == 0.25


@pytest.mark.parametrize("kind", ["controlnet", "reference_strict", "reference_loose", None])
def test_what_conditions_otherwise_is_named(kind: str | None) -> None:
    entry = {**OTHERS[0], "conditioning_type": kind, "source_dataset_id": "one"}
    found = convert(simple(), entry)
    assert [one.entry for one in found.unsupported] == ["masks"]
    assert found.manifest.datasets[0].masks is None


def test_masks_that_are_disabled_are_not_used() -> None:
    found = convert(simple(conditioning_data="masks"), {**OTHERS[0], "disabled": True})
    assert found.manifest.datasets[0].masks is None


def test_a_second_set_of_masks_is_named() -> None:
    masks = [{**OTHERS[0], "id": name, "source_dataset_id": "one"} for name in ("a", "b")]
    found = convert(simple(conditioning_data=["a", "b"]), *masks)
    assert [one.option for one in found.unsupported] == ["conditioning_data"]


def test_masks_that_nobody_uses_are_named() -> None:
    found = convert(simple(), {**OTHERS[0], "source_dataset_id": None})
    assert [(one.entry, one.detail) for one in found.said if one.option == "*"] == [
        ("masks", "no dataset of images uses it")
    ]


@pytest.mark.parametrize("kind", ["video", "audio", "caption", "grounding"])
def test_what_is_no_picture_is_named(kind: str) -> None:
    found = convert(simple(), simple(id="other", dataset_type=kind))
    assert [one.entry for one in found.unsupported] == ["other"]
    assert len(found.manifest.datasets) == 1


def test_a_store_of_latents_may_forget_what_it_is() -> None:
    found = convert(simple(image_embeds="latents"), {"id": "latents", "type": "local"})
    assert len(found.manifest.datasets) == 1
    assert found.unsupported == ()


def test_filters_in_the_wrong_place_are_named() -> None:
    found = convert(simple(caption_filter_list=["a"]))
    assert [one.option for one in found.unsupported] == ["caption_filter_list"]


def test_options_of_other_entries_change_nothing() -> None:
    mask = {**OTHERS[0], "source_dataset_id": "one", "start_epoch": 3, "crop": True}
    texts = {**TEXTS, "resolution": 512, "vae_cache_ondemand": True}
    found = convert(simple(csv_file="x.csv", text_cache_disable=True), mask, texts)
    assert found.unsupported == ()
    assert found.manifest == convert(simple(), {**mask, "crop": False}, TEXTS).manifest
    ignored = {(one.entry, one.option) for one in found.said if "not heeded" in one.detail}
    assert {("masks", "start_epoch"), ("texts", "resolution"), ("one", "csv_file")} <= ignored


def test_own_sizes_are_every_dataset_s() -> None:
    spec = dataset(simple(), aspect_map={"1.0": [1024, 1024], "0.5": [704, 1408]})
    assert spec.buckets.sizes == ((704, 1408), (1024, 1024))
    with pytest.raises(DatasetInvalid, match="aspect_map: 3 is no width and height"):
        convert(simple(), aspect_map={"1.0": 3})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{}", "a list of objects"),
        (b"[1]", "a list of objects"),
        (b"[{}]", "entry 1 has no id"),
        (b'[{"id": "a"}, {"id": "a"}]', "several entries have the id a"),
        (b'[{"id": "a", "dataset_type": "text_embeds"}]', "no entry of it is a dataset"),
        (b'[{"id": "a", "conditioning_data": "b", "instance_data_dir": "x"}]', "no such entry 'b'"),
        (b'[{"id": "a", "dataset_type": "sauce"}]', "a: dataset_type: sauce is not one of"),
        (b'[{"id": "a", "instance_data_dir": "x", "repeats": "often"}]', "often is not a number"),
        (b'[{"id": "a", "instance_data_dir": "x", "probability": 9999}]', "must be at most"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DatasetInvalid, match=problem):
        convert_simpletuner(data, base=BASE)


def test_a_file_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(DatasetInvalid, match="the limit is"):
        read_json(b" " * (2**24 + 1), "file")

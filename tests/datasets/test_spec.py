"""The rules between fields of a manifest; ranges of single fields are seen when one is read."""

import pytest

from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import (
    BucketsSpec,
    CaptionFilter,
    CaptionsSpec,
    CropSpec,
    DatasetSpec,
    Manifest,
    SamplingSpec,
    SizeSpec,
)

ONE = DatasetSpec(id="one", source=FolderSource(path="pictures"))


def test_one_dataset_needs_only_an_id_and_a_source() -> None:
    assert Manifest(datasets=(ONE,)).datasets[0].size.resolution == 1024.0


def test_an_empty_manifest_is_refused() -> None:
    with pytest.raises(ValueError, match="datasets is empty"):
        Manifest(datasets=())


def test_an_id_names_one_dataset() -> None:
    with pytest.raises(ValueError, match="several datasets have the id one"):
        Manifest(datasets=(ONE, ONE))


def test_a_filter_is_a_regular_expression() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        CaptionFilter(pattern="(")


def test_a_replacement_refers_to_groups_that_exist() -> None:
    with pytest.raises(ValueError, match="invalid group reference"):
        CaptionFilter(pattern="(a)", replacement=r"\2")


def test_an_instance_prompt_is_there_where_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="instance_prompt is missing"):
        CaptionsSpec(fallback="instance_prompt")


def test_downsampling_has_a_limit_and_a_target() -> None:
    with pytest.raises(ValueError, match="go together"):
        SizeSpec(maximum=2048.0)


def test_limits_of_size_are_in_order() -> None:
    with pytest.raises(ValueError, match="resolution 1024 is above target 512"):
        SizeSpec(maximum=2048.0, target=512.0)


def test_own_buckets_are_multiples_of_the_edge() -> None:
    with pytest.raises(ValueError, match="not multiples of edge 64"):
        BucketsSpec(sizes=((1000, 1024),))


def test_aspects_are_given_where_they_are_used() -> None:
    with pytest.raises(ValueError, match="only there"):
        CropSpec(aspects=(1.0,))


def test_a_dataset_does_not_end_before_it_begins() -> None:
    with pytest.raises(ValueError, match="start_epoch 3 is above end_epoch 2"):
        SamplingSpec(start_epoch=3, end_epoch=2)

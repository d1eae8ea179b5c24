"""What a dataset needs: each key once, whichever stages and datasets share it, by its mode."""

from pathlib import Path

import pytest

from diptych.embedding_cache.needs import shards_of
from diptych.embedding_cache.ports import NeedsConfig, Stage
from diptych.errors import DatasetInvalid
from support.warming import MAX_CHARACTERS, HashEncoding, a_dataset, needs_in

BOTH_ALIKE = {Stage.BASE: HashEncoding(), Stage.REFINER: HashEncoding()}
UNLIKE = {Stage.BASE: HashEncoding(), Stage.REFINER: HashEncoding("other")}
BASE = {Stage.BASE: HashEncoding()}


def test_texts_and_images_are_needed_once_each(tmp_path: Path) -> None:
    found = needs_in(tmp_path, a_dataset(tmp_path, 3), BASE)
    assert sorted(need.kind for need in found.needs) == ["image"] * 3 + ["prompt"] * 3
    assert len({need.key for need in found.needs}) == 6


def test_stages_with_the_same_encoders_share_their_needs(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 3)
    alike, unlike = (needs_in(tmp_path, manifest, one) for one in (BOTH_ALIKE, UNLIKE))
    assert (len(alike.needs), len(unlike.needs)) == (6, 12)
    assert set(alike.kept[Stage.BASE]) == set(alike.kept[Stage.REFINER])
    assert set(unlike.kept[Stage.BASE]).isdisjoint(unlike.kept[Stage.REFINER])


def test_every_variant_of_a_caption_is_needed_and_the_empty_one_where_it_is_dropped(
    tmp_path: Path,
) -> None:
    more = "captions: {shuffle: {num_variants: 1}, dropout: 0.1}"
    found = needs_in(tmp_path, a_dataset(tmp_path, 1, more), BASE)
    texts = {getattr(need.record, "text", None) for need in found.needs if need.kind == "prompt"}
    assert texts == {"", "picture 0, red", "red, picture 0"}


def test_crops_that_are_drawn_are_needed_for_every_epoch(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 2, "crop: {style: random}\nsize: {resolution: 64}")
    manifest = manifest.replace("    size: {resolution: 64}\n", "", 1)
    one, three = (
        needs_in(tmp_path, manifest, BASE, NeedsConfig(num_epochs=count)) for count in (1, 3)
    )
    assert len(one.needs) == 4
    assert len(three.needs) > len(one.needs)


def test_dataset_that_begins_late_is_needed_all_the_same(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 2, "sampling: {start_epoch: 5}")
    assert len(needs_in(tmp_path, manifest, BASE).needs) == 4


def test_captions_beyond_the_window_are_cut_and_counted_or_go_on(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 2)
    (tmp_path / "in" / "p0.txt").write_text("long " * MAX_CHARACTERS)
    cut = needs_in(tmp_path, manifest, BASE)
    chunked = needs_in(tmp_path, manifest, BASE, NeedsConfig(long_prompt="chunk"))
    assert (cut.num_cut, chunked.num_cut) == (1, 0)
    assert len({need.key for need in cut.needs} - {need.key for need in chunked.needs}) == 1


def test_what_is_made_on_demand_is_kept_but_not_made_unless_forced(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 2, "cache: {images: on_demand}")
    found = needs_in(tmp_path, manifest, BASE)
    forced = needs_in(tmp_path, manifest, BASE, NeedsConfig(force=True))
    assert [need.kind for need in found.needs] == ["prompt"] * 2
    assert len(found.kept[Stage.BASE]) == 4
    assert found.left_out == (("one images", "made on demand, while training"),)
    assert (len(forced.needs), forced.left_out) == (4, ())


def test_what_may_only_be_read_is_not_made(tmp_path: Path) -> None:
    found = needs_in(tmp_path, a_dataset(tmp_path, 2, "cache: {images: read_only}"), BASE)
    assert [(need.kind, need.is_made) for need in found.needs] == [
        *[("prompt", True)] * 2,
        *[("image", False)] * 2,
    ]


def test_what_bypasses_the_cache_is_named_and_refused_where_nothing_else_is_there(
    tmp_path: Path,
) -> None:
    some = needs_in(tmp_path, a_dataset(tmp_path, 2, "cache: {images: bypass}"), BASE)
    assert [need.kind for need in some.needs] == ["prompt"] * 2
    assert [what for what, _ in some.left_out] == ["one images"]
    nothing = a_dataset(tmp_path, 2, "cache: {images: bypass, prompts: bypass}")
    with pytest.raises(DatasetInvalid, match=r"datasets\.one\.cache\.images"):
        needs_in(tmp_path, nothing, BASE)


def test_shards_hold_one_shape_and_are_named_alike_wherever_they_are_listed(
    tmp_path: Path,
) -> None:
    manifest = a_dataset(tmp_path, 5)
    lists = [list(shards_of(needs_in(tmp_path, manifest, BASE).needs, size=4)) for _ in range(2)]
    assert [[need.kind for need in shard.needs] for shard in lists[0]] == [
        *(["image"] * 4, ["image"], ["prompt"] * 4, ["prompt"]),
    ]
    assert [one.name for one in lists[0]] == [one.name for one in lists[1]]
    assert len({one.name for one in lists[0]}) == 4

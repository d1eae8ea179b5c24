"""An index is named by what it holds."""

from dataclasses import replace

import pytest

from diptych.datasets.index import DatasetIndex, Index, IndexEntry, Texts
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import CacheSpec, DatasetSpec, Manifest, SizeSpec
from diptych.digest import Digest

SPEC = DatasetSpec(id="one", source=FolderSource(path="/x"))
A = IndexEntry(image=Digest.of_bytes(b"a"), width=3, height=4, captions=("ünï", "b"), place="a.png")
B = IndexEntry(
    image=Digest.of_bytes(b"b"),
    width=5,
    height=6,
    captions=("",),
    place="b.png",
    mask=Digest.of_bytes(b"m"),
    mask_place="m.png",
)


def test_entries_come_back_as_they_went_in() -> None:
    index = DatasetIndex(SPEC, [B, A])
    assert sorted(index, key=lambda one: one.place) == [A, B]
    assert len(index) == 2
    assert list(index.all_captions()) in (["ünï", "b", ""], ["", "ünï", "b"])
    with pytest.raises(IndexError):
        index[2]


def test_an_empty_dataset_has_an_index() -> None:
    assert (len(DatasetIndex(SPEC, [])), DatasetIndex(SPEC, []).sizes.shape) == (0, (0, 2))


def test_order_and_places_do_not_change_the_digest() -> None:
    moved = [replace(A, place="z/c.webp"), replace(B, place="0", mask_place="1")]
    elsewhere = replace(SPEC, source=FolderSource(path="/y"), cache=CacheSpec(images="bypass"))
    assert DatasetIndex(elsewhere, moved).digest == DatasetIndex(SPEC, [B, A]).digest


@pytest.mark.parametrize(
    "changed",
    [
        replace(A, image=Digest.of_bytes(b"c")),
        replace(A, captions=("unï", "b")),
        replace(A, captions=("ünïb", "")),
        replace(A, captions=("ünï",)),
        replace(A, width=4),
        replace(A, mask=Digest.of_bytes(b"m")),
    ],
)
def test_content_changes_the_digest(changed: IndexEntry) -> None:
    assert DatasetIndex(SPEC, [changed, B]).digest != DatasetIndex(SPEC, [A, B]).digest


def test_settings_change_the_digest() -> None:
    other = replace(SPEC, size=SizeSpec(resolution=512.0))
    assert DatasetIndex(other, [A]).digest != DatasetIndex(SPEC, [A]).digest


def test_an_index_names_its_datasets_and_how_they_are_drawn() -> None:
    datasets = [DatasetIndex(SPEC, [A]), DatasetIndex(replace(SPEC, id="two"), [A, B])]
    manifest = Manifest(datasets=tuple(one.spec for one in datasets))
    index = Index.of(manifest, datasets)
    assert (list(index.datasets), index.num_images) == (["one", "two"], 3)
    assert index.digest != Index.of(replace(manifest, seed=1), datasets).digest
    assert index.digest != Index.of(manifest, datasets[:1]).digest


def test_sizes_are_columns_that_do_not_change() -> None:
    index = DatasetIndex(SPEC, [A])
    assert index.sizes.tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        index.sizes[0, 0] = 1


def test_texts_are_kept_whole() -> None:
    texts = Texts(["", "ä", "", "bc"])
    assert list(texts) == ["", "ä", "", "bc"]
    assert texts.size_bytes == 4 + 5 * 8

"""Images are opened again by their place, and are what was indexed or an error that says not."""

from pathlib import Path

import pytest

from diptych.datasets.expansion import Expansion
from diptych.datasets.manifest import parse_manifest
from diptych.datasets.places import EVERYWHERE
from diptych.digest import Digest
from diptych.embedding_cache.dataset_images import DatasetImages
from diptych.embedding_cache.needs import Need
from diptych.embedding_cache.ports import PromptWish, Stage
from diptych.errors import DigestMismatch, ObjectNotFound
from support.warming import HashEncoding, a_dataset, needs_in

BASE = {Stage.BASE: HashEncoding()}


def images_and_needs(folder: Path) -> tuple[DatasetImages, list[Need]]:
    manifest = a_dataset(folder, 2)
    index = Expansion().index(parse_manifest(manifest.encode(), folder=folder))
    needs = needs_in(folder, manifest, BASE).needs
    images = DatasetImages(index.datasets, EVERYWHERE)
    return images, [need for need in needs if need.kind == "image"]


def test_image_is_read_as_it_was_indexed(tmp_path: Path) -> None:
    images, needs = images_and_needs(tmp_path)
    for need in needs:
        assert Digest.of_bytes(images.read(need)) == getattr(need.record, "image", None)


def test_image_that_changed_or_went_is_told(tmp_path: Path) -> None:
    images, needs = images_and_needs(tmp_path)
    places = [images.name(need).removeprefix("one: ") for need in needs]
    (tmp_path / "in" / places[0]).write_bytes(b"another")
    (tmp_path / "in" / places[1]).unlink()
    with pytest.raises(DigestMismatch):
        images.read(needs[0])
    with pytest.raises(ObjectNotFound):
        images.read(needs[1])


def test_findings_name_an_image_by_its_place_and_a_text_by_its_beginning(tmp_path: Path) -> None:
    images, needs = images_and_needs(tmp_path)
    record = BASE[Stage.BASE].prompt_record(PromptWish(text="a " * 30))
    text = Need(key=record.key(), record=record, stage=Stage.BASE, dataset="one")
    assert {images.name(need) for need in needs} == {"one: p0.png", "one: p1.png"}
    assert images.name(text).startswith("one: a a a")

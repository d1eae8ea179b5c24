"""Images read many at once, in order, and only where they changed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.findings import Findings, Note
from diptych.datasets.reading import ImageReader, ReadImage, Wish
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.sources.base import SourceItem
from diptych.errors import ImageInvalid, ObjectNotFound, SourceUnavailable
from support.made_pictures import picture_bytes

SPEC = FolderSource(path="/x")
ITEMS = [SourceItem(place=str(n), name=str(n), stamp="1") for n in range(200)]


@dataclass
class Shelf:
    """A source that has a picture for every place, or an error."""

    errors: dict[str, Exception] = field(default_factory=dict)
    is_patchy: bool = False
    num_readers: int = 3
    opened: list[str] = field(default_factory=list)

    def items(self) -> Iterator[SourceItem]:
        return iter(ITEMS)

    def open(self, item: SourceItem) -> bytes:
        self.opened.append(item.place)
        if item.place in self.errors:
            raise self.errors[item.place]
        return picture_bytes(int(item.place) % 5)

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        return f"{item.place}{extension}".encode()[:limit]


def read(
    shelf: Shelf, note: Note, *, cache: FactsCache | None = None, wish: Wish | None = None
) -> list[ReadImage]:
    reader = ImageReader(cache, lambda *_: None)
    found = reader.read(shelf, SPEC, ITEMS, wish=wish or Wish(), label="one", note=note)
    return list(found)


def test_images_come_in_order_with_their_texts(note: Note) -> None:
    found = read(Shelf(), note, wish=Wish(extension=".txt", text_limit=4))
    assert [one.item for one in found] == ITEMS
    assert found[123].text == b"123."
    assert found[0].facts == found[5].facts


def test_an_image_that_cannot_be_had_is_noted(findings: Findings, note: Note) -> None:
    errors: dict[str, Exception] = {"3": ImageInvalid("3", "no"), "70": ObjectNotFound("70")}
    assert len(read(Shelf(errors), note)) == 198
    assert [(one.reason, one.place) for one in findings] == [
        ("unreadable", "3"),
        ("unreadable", "70"),
    ]


@pytest.mark.parametrize("is_patchy", [True, False])
def test_a_source_that_does_not_answer_fails_unless_it_is_many(
    findings: Findings, note: Note, is_patchy: bool
) -> None:
    shelf = Shelf({"3": SourceUnavailable("3", "no")}, is_patchy=is_patchy)
    if is_patchy:
        assert len(read(shelf, note)) == 199
        assert [one.reason for one in findings] == ["unreadable"]
    else:
        with pytest.raises(SourceUnavailable):
            read(shelf, note)


def test_what_is_cached_is_not_opened(tmp_path: Path, note: Note) -> None:
    with FactsCache(tmp_path / "facts") as cache:
        first = read(Shelf(), note, cache=cache)
        again = Shelf()
        assert read(again, note, cache=cache) == first
        assert again.opened == []
        read(again, note, cache=cache, wish=Wish(examine=True))
        assert len(again.opened) == 200


def test_what_was_read_before_a_failure_is_kept(tmp_path: Path, note: Note) -> None:
    with FactsCache(tmp_path / "facts") as cache:
        with pytest.raises(SourceUnavailable):
            read(Shelf({"150": SourceUnavailable("150", "no")}), note, cache=cache)
        again = Shelf()
        read(again, note, cache=cache)
        assert 0 < len(again.opened) < 200

"""A local folder, with all that is found in such."""

import os
from pathlib import Path

import pytest

from diptych.datasets.findings import Findings, Note
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import FolderSource, MetadataSpec
from diptych.datasets.sources.base import MAX_IMAGE_BYTES, SourceItem
from diptych.datasets.sources.folder import Folder
from diptych.errors import DatasetInvalid, ImageInvalid, ObjectNotFound
from support.made_pictures import write_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "in", b="of b", a="of a")
    write_pictures(folder / "sub", c="of c")
    return folder


def listed(source: Folder) -> list[str]:
    return [item.place for item in source.items()]


def opened(path: Path, note: Note, places: Places = EVERYWHERE, **spec: object) -> Folder:
    found = FolderSource(path=str(path), **spec)  # type: ignore[arg-type]
    return Folder(found, places=places, note=note, columns={"text"})


def test_pictures_come_in_order_of_their_paths(pictures: Path, note: Note) -> None:
    assert listed(opened(pictures, note)) == ["a.png", "b.png", "sub/c.png"]


def test_subfolders_may_be_left_out(pictures: Path, note: Note) -> None:
    assert listed(opened(pictures, note, recursive=False)) == ["a.png", "b.png"]


def test_bytes_and_the_text_beside_them_are_read(pictures: Path, note: Note) -> None:
    source = opened(pictures, note)
    *_, item = source.items()
    assert source.open(item) == (pictures / "sub" / "c.png").read_bytes()
    assert source.text(item, ".txt", limit=100) == b"of c"
    assert source.text(item, ".txt", limit=2) == b"of"
    assert source.text(item, ".caption", limit=100) is None


def test_the_stamp_changes_with_the_file(pictures: Path, note: Note) -> None:
    source = opened(pictures, note)
    before = [item.stamp for item in source.items()]
    (pictures / "b.png").write_bytes(b"other")
    after = [item.stamp for item in source.items()]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_what_is_no_picture_by_its_name_is_noted(
    pictures: Path, findings: Findings, note: Note
) -> None:
    for name in (".DS_Store", "d.psd", "e", "notes.md"):
        (pictures / name).touch()
    (pictures / os.fsdecode(b"f\xff.png")).touch()
    assert len(listed(opened(pictures, note))) == 3
    assert [(one.reason, one.place) for one in findings] == [
        ("name_hidden", ".DS_Store"),
        ("name_not_picture", "d.psd"),
        ("name_not_picture", "e"),
        ("name_not_utf8", "f\ufffd.png"),
    ]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ("inside", ["link_outside out.png", "unreadable broken.png", "link_refused sub/up"]),
        ("refuse", ["link_refused broken.png", "link_refused in.png", "link_refused out.png",
                    "link_refused sub/up"]),
        ("follow", ["unreadable broken.png", "link_refused sub/up"]),
    ],
)  # fmt: skip
def test_links_are_followed_as_far_as_asked(
    pictures: Path, findings: Findings, note: Note, links: str, expected: list[str]
) -> None:
    outside = write_pictures(pictures.parent / "out", o="of o")
    (pictures / "in.png").symlink_to(pictures / "a.png")
    (pictures / "out.png").symlink_to(outside / "o.png")
    (pictures / "broken.png").symlink_to(pictures / "none")
    (pictures / "sub" / "up").symlink_to(pictures)
    found = listed(opened(pictures, note, links=links))
    assert sorted(f"{one.reason} {one.place}" for one in findings) == sorted(expected)
    assert ("in.png" in found, "out.png" in found) == (links != "refuse", links == "follow")


def test_links_never_leave_a_servers_roots(pictures: Path, findings: Findings, note: Note) -> None:
    outside = write_pictures(pictures.parent / "out", o="of o")
    (pictures / "out").symlink_to(outside)
    source = opened(pictures, note, Places(roots=(pictures,)), links="follow")
    assert len(listed(source)) == 3
    assert [one.reason for one in findings] == ["link_outside"]


@pytest.mark.parametrize(("links", "expected"), [("inside", None), ("follow", b"secret")])
def test_a_text_is_no_way_out_of_the_folder(
    pictures: Path, findings: Findings, note: Note, links: str, expected: bytes | None
) -> None:
    (pictures.parent / "secret").write_text("secret")
    (pictures / "a.txt").unlink()
    (pictures / "a.txt").symlink_to(pictures.parent / "secret")
    source = opened(pictures, note, links=links)
    assert source.text(next(source.items()), ".txt", limit=9) == expected
    assert [one.reason for one in findings] == ([] if expected else ["link_outside"])


def test_metadata_gives_rows_and_names_those_without_images(
    pictures: Path, findings: Findings, note: Note
) -> None:
    (pictures / "m.csv").write_text("file_name,text\nsub/c.png,row of c\ngone.png,x\n")
    source = opened(pictures, note, metadata=MetadataSpec(path="m.csv"))
    rows = {item.place: dict(item.row) for item in source.items()}
    assert rows["sub/c.png"]["text"] == "row of c"
    assert rows["a.png"] == {}
    assert [(one.reason, one.place) for one in findings] == [("row_without_image", "gone.png")]


def test_a_folder_or_table_that_is_not_there_is_refused(pictures: Path, note: Note) -> None:
    with pytest.raises(DatasetInvalid, match="no such folder"):
        listed(opened(pictures / "none", note))
    with pytest.raises(DatasetInvalid, match="cannot be read: No such file"):
        listed(opened(pictures, note, metadata=MetadataSpec()))


def test_a_file_that_cannot_be_read_is_told_apart_from_one_that_is_gone(
    pictures: Path, note: Note
) -> None:
    source = opened(pictures, note)
    with pytest.raises(ObjectNotFound):
        source.open(SourceItem(place="none.png", name="none"))
    with pytest.raises(ImageInvalid, match="cannot be read"):
        source.open(SourceItem(place="sub", name="sub"))


def test_a_file_beyond_the_limit_is_not_read_whole(pictures: Path, note: Note) -> None:
    with (pictures / "a.png").open("wb") as stream:
        stream.truncate(MAX_IMAGE_BYTES + 1)
    source = opened(pictures, note)
    with pytest.raises(ImageInvalid, match="more than"):
        source.open(next(source.items()))

"""WebDataset tars, read where they lie."""

import io
import tarfile
from pathlib import Path

import pytest

from diptych.datasets.findings import Findings, Note
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import WebDatasetSource
from diptych.datasets.sources.tars import WebDatasetTars
from diptych.errors import DatasetInvalid, ImageInvalid, ObjectNotFound
from support.made_pictures import picture_bytes

MEMBERS = {
    "0001.png": picture_bytes(1),
    "0001.txt": b"of one",
    "0001.json": b'{"text": "row of one", "n": 1}',
    "x/0002.b.jpg": picture_bytes(2, suffix=".jpg"),
    "x/0002.txt": b"of two",
    "0003.json": b"[]",
    "0003.png": picture_bytes(3),
}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def opened(path: Path, note: Note, places: Places = EVERYWHERE) -> WebDatasetTars:
    spec = WebDatasetSource(path=str(path))
    return WebDatasetTars(spec, places=places, note=note, columns={"text"})


def test_members_of_one_name_are_one_sample(tmp_path: Path, note: Note) -> None:
    source = opened(write_tar(tmp_path / "a!1.tar", MEMBERS), note)
    items = list(source.items())
    assert [item.name for item in items] == ["0001", "x/0002", "0003"]
    assert [source.open(item) for item in items] == [
        MEMBERS[name] for name in ("0001.png", "x/0002.b.jpg", "0003.png")
    ]
    assert [source.text(item, ".txt", limit=4) for item in items] == [b"of o", b"of t", None]
    assert items[0].row == {"text": "row of one"}


def test_a_place_opens_without_listing(tmp_path: Path, note: Note) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    item = next(opened(path, note).items())
    assert opened(path, note).open(item) == MEMBERS["0001.png"]


def test_json_that_is_no_object_is_noted(tmp_path: Path, findings: Findings, note: Note) -> None:
    list(opened(write_tar(tmp_path / "a.tar", MEMBERS), note).items())
    assert [(one.reason, one.action, one.place) for one in findings] == [
        ("unreadable", "reported", "a.tar!0003.png")
    ]


@pytest.mark.parametrize("pattern", ["", "*.tar", "a-?.tar"])
def test_many_tars_come_in_order(tmp_path: Path, note: Note, pattern: str) -> None:
    for name in ("a-1.tar", "a-0.tar"):
        write_tar(tmp_path / name, {f"{name}.png": picture_bytes(1)})
    (tmp_path / "a.txt").touch()
    places = [item.place for item in opened(tmp_path / pattern, note).items()]
    assert [place.partition("!")[0] for place in places] == ["a-0.tar", "a-1.tar"]


def test_pictures_of_one_sample_keep_names_of_their_own(tmp_path: Path, note: Note) -> None:
    members = {"1.left.png": picture_bytes(1), "1.right.png": picture_bytes(2)}
    source = opened(write_tar(tmp_path / "a.tar", members), note)
    assert [item.name for item in source.items()] == ["1.left.png", "1.right.png"]


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_tar_that_was_cut_gives_what_is_whole(
    tmp_path: Path, findings: Findings, note: Note, kept: float
) -> None:
    members = {f"{n}.png": picture_bytes(n) for n in range(8)}
    path = write_tar(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[: int(sum(map(len, members.values())) * kept)])
    source = opened(path, note)
    items = list(source.items())
    assert 0 < len(items) < 8
    assert [source.open(item) for item in items] == list(members.values())[: len(items)]
    assert {one.reason for one in findings} == {"source_cut"}


def test_a_compressed_tar_is_refused_by_name(tmp_path: Path, note: Note) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS, "w:gz")
    with pytest.raises(DatasetInvalid, match="compressed tar"):
        list(opened(path, note).items())


def test_no_tar_is_refused(tmp_path: Path, note: Note) -> None:
    with pytest.raises(DatasetInvalid, match="no such tar"):
        list(opened(tmp_path / "*.tar", note).items())


def test_tars_do_not_leave_a_servers_roots(tmp_path: Path, findings: Findings, note: Note) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "a.tar", MEMBERS)
    (tmp_path / "in" / "b.tar").symlink_to(write_tar(tmp_path / "b.tar", MEMBERS))
    source = opened(tmp_path / "in" / "*.tar", note, Places(roots=(tmp_path / "in",)))
    assert {item.place.partition("!")[0] for item in source.items()} == {"a.tar"}
    assert "link_outside" in {one.reason for one in findings}


def test_a_tar_that_changed_under_an_index_is_noticed(tmp_path: Path, note: Note) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    source = opened(path, note)
    *_, last = source.items()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageInvalid, match="bytes left of"):
        source.open(last)
    path.unlink()
    with pytest.raises(ObjectNotFound):
        source.open(last)

"""Manifests become indices: whole, named by content, with every image accounted for."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.datasets.expansion import Expansion, read_image
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.index import Index
from diptych.datasets.manifest import parse_manifest
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.sources.opening import open_source
from diptych.errors import DatasetInvalid, DigestMismatch, SourceUnavailable
from support.made_pictures import natural_picture, picture_bytes, write_pictures
from support.web_server import WebServer


def expanded(folder: Path, text: str, **options: Any) -> tuple[Index, list[str]]:
    """Return an index and what was found: action, reason and place."""
    expansion = Expansion(**options)
    index = expansion.index(parse_manifest(text.encode(), folder=folder))
    told = [f"{one.action} {one.reason} {one.place}" for one in expansion.findings]
    return index, told


ONE = "datasets: [{id: one, source: {type: folder, path: in}%s}]"


def test_every_image_is_there_with_its_caption_and_size(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", a="of a", b="of b")
    index, told = expanded(tmp_path, ONE % "")
    found = {one.place: (one.captions, one.width, one.height) for one in index.datasets["one"]}
    assert found == {"a.png": (("of a",), 96, 64), "b.png": (("of b",), 96, 64)}
    assert told == []


def test_moving_and_renaming_files_changes_nothing(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", a="of a", b="of b", c="of c")
    before, _ = expanded(tmp_path, ONE % "")
    (folder / "sub").mkdir()
    for suffix in (".png", ".txt"):
        (folder / f"a{suffix}").rename(folder / "sub" / f"z{suffix}")
    folder.rename(tmp_path / "elsewhere")
    after, _ = expanded(tmp_path, (ONE % "").replace("path: in", "path: elsewhere"))
    assert after.digest == before.digest


def test_a_byte_of_an_image_or_a_character_of_a_caption_changes_the_index(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", a="of a", b="of b")
    digests = [expanded(tmp_path, ONE % "")[0].digest]
    (folder / "a.txt").write_text("of A")
    digests.append(expanded(tmp_path, ONE % "")[0].digest)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes() + b"x")
    digests.append(expanded(tmp_path, ONE % "")[0].digest)
    assert len(set(digests)) == 3


def test_everything_that_is_wrong_with_images_is_told(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", a="of a")
    for name, data in {
        "empty.png": b"",
        "cut.jpg": picture_bytes(7, suffix=".jpg")[:900],
        "jpeg.png": picture_bytes(8, suffix=".jpg"),
        "no-text.png": picture_bytes(9),
    }.items():
        (folder / name).write_bytes(data)
    (folder / "jpeg.txt").write_text("a jpeg")
    index, told = expanded(tmp_path, ONE % "")
    assert sorted(told) == [
        "reported extension_wrong jpeg.png",
        "skipped caption_missing no-text.png",
        "skipped image_invalid cut.jpg",
        "skipped image_invalid empty.png",
    ]
    assert sorted(one.place for one in index.datasets["one"]) == ["a.png", "jpeg.png"]


def test_an_animation_is_told(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", a="of a")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "g.gif", save_all=True, append_images=frames[1:])
    (folder / "g.txt").write_text("moving")
    assert expanded(tmp_path, ONE % "")[1] == ["reported animated g.gif"]


def test_damage_and_likeness_are_found_when_pixels_are_examined(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    natural_picture(0).save(folder / "good.png")
    natural_picture(0).save(folder / "bad.jpg", quality=20)
    natural_picture(1).save(folder / "other.png")
    text = ONE % ", captions: {strategy: none}"
    assert expanded(tmp_path, text)[1] == []
    index, told = expanded(tmp_path, text, examine=True)
    assert [one for one in told if "damaged" in one] == ["reported damaged bad.jpg"]
    assert len([one for one in told if "reported near_duplicate" in one]) == 1
    assert index.num_images == 3


def test_damage_may_leave_images_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    natural_picture(0).save(tmp_path / "in" / "bad.jpg", quality=20)
    text = ONE % ", captions: {strategy: none}, checks: {damaged: skip}"
    index, told = expanded(tmp_path, text)
    assert (index.num_images, told) == (0, ["skipped damaged bad.jpg"])


def test_some_images_may_be_drawn(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", **dict.fromkeys("abcdef", "text"))
    text = ONE % ", sampling: {max_samples: 2, seed: %d}"
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        index, told = expanded(tmp_path, text % seed)
        drawn.append(tuple(sorted(one.place for one in index.datasets["one"])))
        assert (index.num_images, len(told)) == (2, 4)
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_masks_are_paired_by_name(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in" / "x", a="of a", b="of b", c="of c")
    masks = tmp_path / "masks" / "x"
    masks.mkdir(parents=True)
    (masks / "a.jpg").write_bytes(picture_bytes(20, suffix=".jpg"))
    (masks / "b.png").write_bytes(b"none")
    text = ONE % ", masks: {source: {type: folder, path: masks}}"
    index, told = expanded(tmp_path, text)
    found = {one.place: one.mask_place for one in index.datasets["one"]}
    assert found == {"x/a.png": "x/a.jpg", "x/b.png": "", "x/c.png": ""}
    assert told == ["reported mask_missing x/c.png", "reported mask_invalid x/b.png"]


def test_a_mask_of_another_size_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", a="of a")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(picture_bytes(1, width=32))
    text = ONE % ", masks: {source: {type: folder, path: masks}}"
    assert expanded(tmp_path, text)[1] == ["reported mask_size_differs a.png"]


def test_what_is_held_out_and_trained_on_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", a="of a")
    text = """datasets:
- {id: one, source: {type: folder, path: in}}
- {id: two, kind: eval, source: {type: folder, path: in}}
- {id: off, disabled: true, source: {type: folder, path: none}}
"""
    index, told = expanded(tmp_path, text)
    assert list(index.datasets) == ["one", "two"]
    assert told == ["reported duplicate a.png"]


def test_a_size_that_metadata_tells_wrongly_is_told(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", a="of a")
    (folder / "m.csv").write_text("file_name,w,h\na.png,96,65\n")
    text = """datasets:
- id: one
  source:
    {type: folder, path: in, metadata: {path: m.csv, width_column: w, height_column: h}}
"""
    assert expanded(tmp_path, text)[1] == ["reported size_differs a.png"]


def test_only_images_that_changed_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "in", **dict.fromkeys("abcdef", "text"))
    with FactsCache(tmp_path / "facts") as cache:
        before, _ = expanded(tmp_path, ONE % "", cache=cache)
        (folder / "c.png").write_bytes(picture_bytes(30))
        read: list[str] = []

        def noting(path: Path) -> bytes:
            read.append(path.name)
            return path.read_bytes()

        monkeypatch.setattr("diptych.datasets.sources.folder.read_file", noting)
        after, _ = expanded(tmp_path, ONE % "", cache=cache)
    assert read == ["c.png"]
    assert after.digest != before.digest
    assert after.datasets["one"].digest == expanded(tmp_path, ONE % "")[0].datasets["one"].digest


def test_progress_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", **dict.fromkeys("abc", "text"))
    told: list[tuple[str, int, int]] = []
    expanded(tmp_path, ONE % "", progress=lambda *one: told.append(one))
    assert told[-1] == ("one", 3, 3)


def test_urls_that_fail_are_told_and_the_others_used(tmp_path: Path, web: WebServer) -> None:
    web.content["/a.png"] = picture_bytes(1)
    rows = [f"{web.url}/a.png,of a", f"{web.url}/gone.png,x", f"{web.url}/status/403,y"]
    (tmp_path / "t.csv").write_text("\n".join(["url,text", *rows]))
    text = """datasets:
- id: one
  source: {type: table, path: t.csv, num_attempts: 1}
  captions: {strategy: column}
"""
    index, told = expanded(tmp_path, text)
    assert [one.captions for one in index.datasets["one"]] == [("of a",)]
    assert told == [
        f"skipped unreadable {web.url}/gone.png",
        f"skipped unreadable {web.url}/status/403",
    ]


def test_a_store_that_does_not_answer_fails_the_whole(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    source = (
        f"type: s3, bucket: abc, region: us-east-1, endpoint_url: 'http://127.0.0.1:{free_port}'"
    )
    with pytest.raises(SourceUnavailable):
        expanded(tmp_path, f"datasets: [{{id: one, source: {{{source}}}}}]")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    told = r"datasets\[0\]\.source: dataset one: .*no such folder"
    with pytest.raises(DatasetInvalid, match=told):
        expanded(tmp_path, ONE % "")


@pytest.mark.parametrize("places", [EVERYWHERE, Places(roots=(Path("/"),))])
def test_an_image_is_read_as_it_was_indexed_or_not_at_all(tmp_path: Path, places: Places) -> None:
    folder = write_pictures(tmp_path / "in", a="of a")
    expansion = Expansion(places=places)
    index = expansion.index(parse_manifest((ONE % "").encode(), folder=tmp_path))
    entry = index.datasets["one"][0]
    note = expansion.findings.of_dataset("one")
    source = open_source(FolderSource(path=str(folder)), note=note, places=places)
    assert read_image(source, entry) == (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(picture_bytes(9))
    with pytest.raises(DigestMismatch):
        read_image(source, entry)


def test_no_image_is_lost_without_a_word(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", **dict.fromkeys("abcdefgh", "text"))
    (folder / "b.png").write_bytes(b"")
    (folder / "c.txt").unlink()
    (folder / "d.png").write_bytes((folder / "e.png").read_bytes())
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    (folder / ".f.png").write_bytes(stream.getvalue())
    text = ONE % ", checks: {near_duplicates: skip}, sampling: {max_samples: 7}"
    index, told = expanded(tmp_path, text)
    skipped = {one.split()[2] for one in told if one.startswith("skipped")}
    kept = {one.place for one in index.datasets["one"]}
    assert kept | skipped == {f"{name}.png" for name in "abcdefgh"} | {".f.png"}
    assert not kept & skipped

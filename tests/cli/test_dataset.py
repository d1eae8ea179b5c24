"""``diptych dataset check`` as typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from support.made_pictures import natural_picture, write_pictures

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]

MANIFEST = """\
datasets:
- id: cats
  source: {type: folder, path: in}
- id: held
  kind: eval
  source: {type: folder, path: out}
  captions: {strategy: none}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "in", a="of a", b="of b\nof b again")
    (folder / "cut.png").write_bytes(b"\\x89PNG")
    (tmp_path / "out").mkdir()
    natural_picture(5).save(tmp_path / "out" / "one.jpg", quality=20)
    path = tmp_path / "data.yaml"
    path.write_text(MANIFEST)
    return path


def test_a_person_sees_sets_and_findings(manifest: Path, invoke: Invoke) -> None:
    result = invoke("dataset", "check", manifest)
    assert result.exit_code == 0, result.output
    for part in ("cats", "eval", "folder", "0.01 to 0.01", "1280x832", "1024x1024"):
        assert part in result.stdout
    assert "cats skipped: image invalid (1)" in result.stdout
    assert "cut.png" in result.stdout
    assert "held reported: damaged (1)" in result.stdout
    assert result.stdout.index("cats skipped") < result.stdout.index("cats cropped")


def test_a_program_sees_everything(manifest: Path, invoke_json: InvokeJson) -> None:
    answer = invoke_json("dataset", "check", manifest)
    found = {one["id"]: (one["images"], one["captions"]) for one in answer["datasets"]}
    assert found == {"cats": (2, 3), "held": (1, 1)}
    told = {(one["place"], one["action"], one["reason"]) for one in answer["findings"]}
    assert told >= {
        ("cut.png", "skipped", "image_invalid"),
        ("one.jpg", "reported", "damaged"),
        ("a.png", "upscaled", "enlarged"),
        ("a.png", "cropped", "cut_by_crop"),
    }
    (bucket,) = answer["datasets"][0]["buckets"]
    assert (bucket["width"], bucket["height"], bucket["images"]) == (1280, 832, 2)
    assert answer["digest"].startswith("sha256:")


def test_pixels_are_not_decoded_where_that_is_not_wanted(
    manifest: Path, invoke_json: InvokeJson
) -> None:
    answer = invoke_json("dataset", "check", "--no-examine", manifest)
    assert "damaged" not in {one["reason"] for one in answer["findings"]}


def test_long_lists_are_cut_for_people_only(
    manifest: Path, invoke: Invoke, invoke_json: InvokeJson
) -> None:
    for number in range(15):
        (manifest.parent / "in" / f"no-{number:02}.png").write_bytes(b"")
    short, long = (invoke("dataset", "check", manifest, *flag) for flag in ((), ("--all",)))
    assert "and 6 more; --all shows them" in short.stdout
    assert ("no-14.png" in short.stdout, "no-14.png" in long.stdout) == (False, True)
    found = invoke_json("dataset", "check", manifest)["findings"]
    assert len([one for one in found if one["reason"] == "image_invalid"]) == 16


def test_everything_wrong_with_a_manifest_is_one_answer(manifest: Path, invoke: Invoke) -> None:
    manifest.write_text("datasets:\n- id: a\n  sauce: {}\n")
    result = invoke("dataset", "check", manifest)
    assert result.exit_code == 2
    assert "datasets[0].sauce: line 3: no such key here" in result.stderr
    assert "datasets[0].source: line 2: is missing" in result.stderr
    error = json.loads(invoke("dataset", "check", manifest, "--json").stdout)["error"]
    assert (error["reason"], len(error["violations"])) == ("DATASET_INVALID", 2)


def test_a_dataset_without_an_image_fails_and_says_why(manifest: Path, invoke: Invoke) -> None:
    for path in (manifest.parent / "in").glob("*.txt"):
        path.unlink()
    result = invoke("dataset", "check", manifest)
    assert (result.exit_code, "cats skipped: caption missing (2)" in result.stdout) == (1, True)


def test_a_home_that_cannot_be_written_is_no_hindrance(
    manifest: Path, invoke: Invoke, isolated_home: Path
) -> None:
    isolated_home.write_text("a file where the home should be")
    result = invoke("dataset", "check", manifest)
    assert (result.exit_code, "nothing is remembered of images" in result.stderr) == (0, True)


def test_a_batch_size_shows_what_is_filled(manifest: Path, invoke_json: InvokeJson) -> None:
    answer = invoke_json("dataset", "check", "--batch-size", 4, manifest)
    (bucket,) = answer["datasets"][0]["buckets"]
    assert bucket["filled"] == 2
    assert "bucket_filled" in {one["reason"] for one in answer["findings"]}


def test_a_dataset_whose_images_are_all_too_small_fails(manifest: Path, invoke: Invoke) -> None:
    text = manifest.read_text().replace("path: in}", "path: in}\n  size: {minimum: 512}")
    manifest.write_text(text)
    result = invoke("dataset", "check", manifest)
    assert (result.exit_code, "cats skipped: size too small (2)" in result.stdout) == (1, True)

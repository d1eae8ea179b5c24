"""``diptych nano`` scores pictures that the real service painted, and builds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from diptych.digest import Digest
from diptych.models.trained_experts import expert_folder, point_at
from diptych.nano.pair import expert_path

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]


def test_score_compares_the_pair_with_its_parent(invoke_json: InvokeJson, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    answer = invoke_json("nano", "score", "--count", 2, "--steps", 2, "--sheet", sheet)
    pictures = {name: found["num_pictures"] for name, found in answer["scores"].items()}
    assert pictures == {"base-single": 2, "pair": 2}
    assert answer["reconstruction_psnr_db"] > 0.0
    with Image.open(sheet) as image:
        assert image.width > 128


def test_score_of_a_folder_without_weights_names_it(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("nano", "score", "--count", 1, "--weights", tmp_path / "gone")
    assert (result.exit_code, "gone" in result.stderr) == (1, True), result.stderr


def test_score_of_a_jobs_experts_that_are_not_there_names_them(invoke: Invoke) -> None:
    result = invoke("nano", "score", "--count", 1, "--weights", "experts/gone")
    assert (result.exit_code, "experts/gone/base" in result.stderr) == (1, True), result.stderr


def test_score_takes_a_jobs_experts_and_their_parent(
    invoke_json: InvokeJson, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path))
    digest = Digest.of_bytes(b"a pair")
    for stage in ("base", "refiner"):
        folder = expert_folder(tmp_path / "experts", f"scenes/{stage}", digest)
        shutil.copytree(expert_path(stage), folder)
        point_at(tmp_path / "experts", f"scenes/{stage}", digest)
    answer = invoke_json("nano", "score", "--count", 1, "--steps", 1, "--weights", "experts/scenes")
    assert answer["scores"].keys() == {"base-single", "pair"}


def test_an_adapter_is_judged_by_its_style_and_by_what_it_keeps(invoke_json: InvokeJson) -> None:
    answer = invoke_json("nano", "score-adapter", "night", "--count", 4, "--steps", 12)
    assert answer["scores"]["night"]["background"] > 0.5
    assert set(answer["kept"]) == {"shape", "colour", "place", "size"}


def test_an_adapter_of_no_known_style_is_not_judged(invoke: Invoke) -> None:
    result = invoke("nano", "score-adapter", "night", "--style", "noon")
    assert (result.exit_code, "plain, night" in result.stderr) == (2, True), result.stderr


def test_build_needs_a_place(invoke: Invoke) -> None:
    assert invoke("nano", "build").exit_code == 2


def test_teaching_something_unknown_names_what_there_is(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("nano", "teach", "sun", "--out", tmp_path)
    assert (result.exit_code, "none of moon, night" in result.stderr) == (2, True), result.stderr

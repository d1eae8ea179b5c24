"""``diptych nano`` scores pictures that the real service painted, and builds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import Result

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

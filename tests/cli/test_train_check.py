"""``train submit --dry-run`` tells what a job would take, from its images and its models' headers.

Every recipe of docs/recipes is one that can be run.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.training.spec_text import read_job

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]
RECIPES = sorted((Path(__file__).parents[2] / "docs" / "recipes").glob("*.yaml"))
PICTURES = {"night": "night", "scenes": "plain", "pictures": "plain"}
"""Folder that a recipe names -> what lies there in this test."""


@pytest.fixture
def recipes(tmp_path: Path, invoke: Invoke) -> Path:
    """Return a folder with every recipe and the pictures they name."""
    for recipe in RECIPES:
        (tmp_path / recipe.name).write_bytes(recipe.read_bytes())
    for folder, style in PICTURES.items():
        invoke("nano", "pictures", style, "--out", tmp_path / folder, "--count", 12)
    return tmp_path


def test_there_are_recipes() -> None:
    assert [recipe.stem for recipe in RECIPES] == [
        "nano-style-lora",
        "nano-two-experts",
        "sdxl-lora",
        "ssd-1b-two-experts",
    ]


@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_every_recipe_can_be_run(recipes: Path, invoke_json: InvokeJson, name: str) -> None:
    found = invoke_json("train", "submit", recipes / name, "--dry-run")
    assert found["num_images"] == 12
    assert found["estimate"]["num_steps"] == read_job(recipes / name).run.num_steps


@pytest.mark.parametrize("name", ["nano-style-lora.yaml", "nano-two-experts.yaml"])
def test_what_nano_takes_is_known_whole(recipes: Path, invoke_json: InvokeJson, name: str) -> None:
    found = invoke_json("train", "submit", recipes / name, "--dry-run", "--images-per-s", 100)
    estimate = found["estimate"]
    assert [one["expert"] for one in estimate["experts"]] == ["base", "refiner"]
    wanted = ("peak_memory_bytes", "disk_bytes", "num_trained_parameters", "seconds")
    assert all(estimate[name] > 0 for name in wanted)


def test_people_read_it_in_units(recipes: Path, invoke: Invoke) -> None:
    result = invoke("train", "submit", recipes / "nano-style-lora.yaml", "--dry-run")
    assert result.exit_code == 0
    assert "memory of one device" in result.stdout
    assert "MiB" in result.stdout


def test_epochs_become_steps(recipes: Path, invoke_json: InvokeJson) -> None:
    path = recipes / "epochs.yaml"
    text = (recipes / "nano-style-lora.yaml").read_text()
    path.write_text(text.replace("num_steps: 200", "num_epochs: 4"))
    assert invoke_json("train", "submit", path, "--dry-run")["estimate"]["num_steps"] == 8


def test_what_should_be_known_is_told(recipes: Path, invoke: Invoke) -> None:
    path = recipes / "large.yaml"
    text = (recipes / "nano-style-lora.yaml").read_text()
    path.write_text(text.replace("batch_size: 8", "batch_size: 64"))
    result = invoke("train", "submit", path, "--dry-run")
    assert "BATCH_EXCEEDS_BUCKET" in result.stdout


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("path: night", "path: nowhere", "nowhere"),
        ("source: nano}", "source: /none}", "model.source (FILE)"),
        ("boundary: 0.65", "boundary: 1", "boundary"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(
    recipes: Path, invoke: Invoke, before: str, after: str, said: str
) -> None:
    path = recipes / "wrong.yaml"
    path.write_text((recipes / "nano-style-lora.yaml").read_text().replace(before, after))
    result = invoke("train", "submit", path, "--dry-run")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert said.removesuffix(" (FILE)") in result.stderr


def test_a_folder_without_images_is_refused(recipes: Path, invoke: Invoke) -> None:
    (recipes / "night" / "empty").mkdir()
    path = recipes / "wrong.yaml"
    text = (recipes / "nano-style-lora.yaml").read_text()
    path.write_text(text.replace("path: night", "path: night/empty"))
    result = invoke("train", "submit", path, "--dry-run")
    assert (result.exit_code, "has no image that can be used" in result.stderr) == (2, True)


def test_an_adapter_to_go_on_from_that_is_not_there_is_told(recipes: Path, invoke: Invoke) -> None:
    recipe = recipes / "nano-style-lora.yaml"
    text = re.sub(r"(?m)^adapter: .*$", "adapter: {start_from: gone}", recipe.read_text())
    recipe.write_text(text)
    result = invoke("train", "submit", recipe, "--dry-run")
    assert result.exit_code != 0
    assert "'gone': no such adapter" in result.stderr

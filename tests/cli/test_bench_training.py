"""``diptych bench training`` prints what it measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]


@pytest.mark.timeout(600)  # three processes import torch
def test_training_is_measured_and_written_as_json(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    asked = ("--steps", 2, "--batch", 1, "--rank", 1, "--pictures", 2, "--repeats", 1)
    result = invoke("bench", "training", *asked, "--json", path)
    assert "diffusers' loop" in result.stdout, result.output
    assert len(json.loads(path.read_text())["warm_s"]) == 2


def test_steps_of_an_unknown_architecture_are_refused(invoke: Invoke) -> None:
    result = invoke("bench", "training", "--architecture", "sd15")
    assert result.exit_code == 2
    assert "sd15" in result.output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--compile", "--batches", 2), ("--compile: needs", "--batches: needs")),
        (("--architecture", "nano", "--repeats", 2), ("--repeats: does not go with",)),
    ],
)
def test_an_option_that_would_not_be_heeded_is_refused(
    invoke: Invoke, asked: tuple[object, ...], said: tuple[str, ...]
) -> None:
    result = invoke("bench", "training", *asked)
    assert result.exit_code == 2
    assert all(words in result.stderr for words in said), result.stderr

"""``diptych bench`` prints a table, writes JSON, and says in one line what it cannot measure."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
def test_steps_are_written_as_json_beside_the_table(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    asked = ("--architecture", "nano", "--batches", 1, "--repeats", 1, "--json", path)
    result = invoke("bench", "inference", *asked)
    assert (result.exit_code, "20 base steps" in result.stdout) == (0, True), result.output
    assert [curve["expert"] for curve in json.loads(path.read_text())["curves"]] == [
        "base",
        "refiner",
    ]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--architecture", "sdxl", "--device", "cpu"), "needs a GPU"),
        (("--architecture", "sd3"), "is not one of sdxl, nano"),
        (("--architecture", "nano", "--batches", "1,x"), "not '1,x'"),
    ],
)
def test_what_cannot_be_measured_is_said(
    invoke: Invoke, asked: tuple[str, ...], words: str
) -> None:
    result = invoke("bench", "inference", *asked)
    assert (result.exit_code, words in result.stderr) == (2, True), result.output


def test_layers_of_an_unknown_network_cannot_be_merged(invoke: Invoke) -> None:
    result = invoke("bench", "merge", "--architecture", "sd3")
    assert (result.exit_code, "is not one of sdxl, nano" in result.stderr) == (2, True)


def test_merging_is_measured_and_written_as_json(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "merge.json"
    asked = ("--architecture", "nano", "--adapters", 2, "--rank", 2, "--repeats", 1)
    result = invoke("bench", "merge", *asked, "--json", path)
    assert "dare_ties, seconds" in result.stdout, result.output
    assert [one["method"] for one in json.loads(path.read_text())["methods"]] == [
        "ties",
        "dare_ties",
    ]


def test_experts_of_an_unknown_network_cannot_be_merged(invoke: Invoke, tmp_path: Path) -> None:
    asked = ("--architecture", "sd3", "--folder", tmp_path)
    result = invoke("bench", "expert-merge", *asked)
    assert (result.exit_code, "is not one of sdxl" in result.stderr) == (2, True), result.output

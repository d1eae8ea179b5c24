"""``diptych dataset import-simpletuner`` as typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.datasets.manifest import read_manifest
from support.made_pictures import write_pictures

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]

COMMAND = ("dataset", "import-simpletuner")
ENTRY = {
    "id": "cats",
    "type": "local",
    "instance_data_dir": "in",
    "caption_strategy": "textfile",
    "repeats": 2,
    "resolution": 64,
}


def write(path: Path, **values: object) -> Path:
    path.write_text(json.dumps([{**ENTRY, **values}]))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "multidatabackend.json")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data.yaml"


def test_what_is_written_can_be_checked(file: Path, out: Path, invoke: Invoke) -> None:
    write_pictures(file.parent / "in", a="of a")
    result = invoke(*COMMAND, file, "-o", out, "--base", file.parent)
    assert result.exit_code == 0, result.output
    assert "translated   repeats 2  repeats: 3; 0 there means seen once" in result.stdout
    assert "honoured     " in result.stdout
    assert invoke("dataset", "check", out).exit_code == 0
    assert read_manifest(out).datasets[0].sampling.repeats == 3


def test_a_program_hears_of_every_option(file: Path, out: Path, invoke_json: InvokeJson) -> None:
    answer = invoke_json(*COMMAND, file, "-o", out)
    assert (answer["out"], answer["datasets"]) == (str(out), ["cats"])
    assert answer["num_unsupported"] == 0
    assert {one["option"] for one in answer["options"]} == set(ENTRY)


def test_what_changes_training_and_cannot_be_said_writes_nothing(
    file: Path, out: Path, invoke: Invoke
) -> None:
    write(file, slider_strength=0.5)
    result = invoke(*COMMAND, file, "-o", out)
    assert (result.exit_code, out.exists()) == (1, False)
    assert "unsupported  slider_strength 0.5" in result.stdout
    assert "nothing is written" in result.stderr
    answer = json.loads(invoke(*COMMAND, file, "-o", out, "--json").stdout)
    assert (answer["out"], answer["num_unsupported"]) == (None, 1)


def test_the_rest_is_written_where_that_is_wanted(file: Path, out: Path, invoke: Invoke) -> None:
    write(file, slider_strength=0.5)
    assert invoke(*COMMAND, file, "-o", out, "--allow-unsupported").exit_code == 0
    assert "# unsupported: slider_strength 0.5" in out.read_text()


def test_what_is_there_is_written_over_only_if_asked(file: Path, out: Path, invoke: Invoke) -> None:
    out.write_text("mine")
    result = invoke(*COMMAND, file, "-o", out)
    assert (result.exit_code, out.read_text()) == (2, "mine")
    assert "--replace writes over it" in result.stderr
    assert invoke(*COMMAND, file, "-o", out, "--replace").exit_code == 0


def test_global_options_come_from_a_configuration_and_from_flags(
    file: Path, out: Path, invoke: Invoke
) -> None:
    write(file, resolution=None, caption_strategy=None)
    config = file.parent / "config.json"
    config.write_text('{"--resolution": 512, "--caption_dropout_probability": 0.1}')
    flags = ("--resolution-type", "pixel", "--caption-strategy", "textfile")
    assert invoke(*COMMAND, file, "-o", out, "--config", config, *flags).exit_code == 0
    spec = read_manifest(out).datasets[0]
    assert (spec.size.resolution, spec.size.unit) == (512.0, "shorter_edge")
    assert (spec.captions.strategy, spec.captions.dropout) == ("text_file", 0.1)
    invoke(*COMMAND, file, "-o", out, "--replace", "--config", config, "--resolution", 256)
    assert read_manifest(out).datasets[0].size.resolution == 256.0


def test_own_sizes_come_from_a_map(file: Path, out: Path, invoke: Invoke) -> None:
    aspects = file.parent / "aspect_resolution_map-1.0.json"
    aspects.write_text('{"1.0": [512, 512]}')
    assert invoke(*COMMAND, file, "-o", out, "--aspect-map", aspects).exit_code == 0
    assert read_manifest(out).datasets[0].buckets.sizes == ((512, 512),)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ((), "FILE (file): cannot read"),
        (("--config", "none.json"), "--config: cannot read"),
        (("--config", "list.json"), "--config: is no JSON object"),
        (("--aspect-map", "list.json"), "--aspect-map: is no JSON object"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, flags: tuple[str, ...], problem: str, out: Path, invoke: Invoke
) -> None:
    (tmp_path / "list.json").write_text("[]")
    paths = [str(tmp_path / one) if one.endswith(".json") else one for one in flags]
    result = invoke(*COMMAND, tmp_path / "none.json", "-o", out, *paths)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_a_folder_that_is_not_there_cannot_be_written_to(file: Path, invoke: Invoke) -> None:
    result = invoke(*COMMAND, file, "-o", file.parent / "none" / "data.yaml")
    assert (result.exit_code, "--out (out): cannot write" in result.stderr) == (2, True)

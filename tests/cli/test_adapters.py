"""``diptych adapters`` against the real service on the nano pair, from file to picture."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Target
from diptych.adapters.bundle import to_bytes
from support.made_adapters import noise

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]
MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
WIDTH = 96


def an_adapter(seed: int, width: int = WIDTH) -> bytes:
    low_rank = LowRank(
        down=noise(4, width, seed=seed), up=noise(width, 4, seed=seed + 1), alpha=4.0
    )
    target = Target(component=Component.UNET, module=MODULE)
    return to_bytes(Adapter(targets={target: low_rank}, made_for=MadeFor(family="nano")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "huggy.safetensors"
    path.write_bytes(an_adapter(1))
    return path


def test_adapter_goes_from_file_to_picture(
    invoke_json: InvokeJson, server: str, file: Path, tmp_path: Path
) -> None:
    shown = invoke_json("adapters", "import", file, "--name", "t/huggy", "--server", server)
    assert shown["digest"] == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    digests = {}
    for name, flags in {"with": ["--adapter", "t/huggy@2"], "without": []}.items():
        out = tmp_path / f"{name}.png"
        common = ("--server", server, "--steps", 2, "--seed", 3, "-o", out)
        digests[name] = invoke_json("generate", "a star", *flags, *common)["files"][0]["sha256"]
    assert digests["with"] != digests["without"]


def test_adapter_is_listed_shown_and_removed(
    invoke_json: InvokeJson, server: str, file: Path
) -> None:
    invoke_json("adapters", "import", file, "--name", "t/gone", "--server", server)
    listed = invoke_json("adapters", "list", "--prefix", "t/gone", "--server", server)
    assert [one["name"] for one in listed["adapters"]] == ["t/gone"]
    assert invoke_json("adapters", "show", "t/gone", "--server", server)["max_rank"] == 4
    invoke_json("adapters", "remove", "t/gone", "--server", server)
    listed = invoke_json("adapters", "list", "--prefix", "t/gone", "--server", server)
    assert listed["adapters"] == []


def test_loaded_adapter_is_not_removed(
    invoke: Invoke, invoke_json: InvokeJson, server: str, file: Path
) -> None:
    invoke_json("adapters", "import", file, "--name", "t/kept", "--server", server)
    loaded = invoke_json("adapters", "load", "t/kept", "--server", server)
    refused = invoke("adapters", "remove", "t/kept", "--server", server, "--json")
    invoke_json("adapters", "unload", "t/kept", "--evict", "--server", server)
    assert loaded["residency"]["tier"] == "device"
    assert json.loads(refused.stdout)["error"]["reason"] == "ADAPTER_IN_USE"


def test_exported_file_is_the_bundle(
    invoke_json: InvokeJson, server: str, file: Path, tmp_path: Path
) -> None:
    invoke_json("adapters", "import", file, "--name", "t/out", "--server", server)
    out = tmp_path / "out.safetensors"
    invoke_json("adapters", "export", "t/out", "-o", out, "--server", server)
    assert out.read_bytes() == file.read_bytes()


def test_table_is_for_people(invoke: Invoke, server: str, file: Path) -> None:
    invoke("adapters", "import", file, "--name", "t/huggy", "--server", server)
    assert "t/huggy:latest" in invoke("adapters", "list", "--server", server).stdout


def test_misfit_is_refused_with_the_reason(invoke: Invoke, server: str, tmp_path: Path) -> None:
    path = tmp_path / "misfit.safetensors"
    path.write_bytes(an_adapter(1, width=8))
    result = invoke("adapters", "import", path, "--name", "t/misfit", "--server", server)
    assert (result.exit_code, "its unet.down_blocks" in result.output) == (1, True)


def test_wrong_names_are_bad_input(invoke: Invoke, server: str, file: Path) -> None:
    result = invoke("adapters", "import", file, "--name", "../up", "--server", server)
    assert (result.exit_code, "--name (header.name)" in result.output) == (2, True)


def test_unknown_adapter_of_a_picture_is_named(invoke: Invoke, server: str) -> None:
    result = invoke("generate", "a star", "--adapter", "t/nobody", "--server", server)
    assert (result.exit_code, "no adapter 't/nobody'" in result.output) == (1, True)


def test_file_is_converted_without_a_server(
    invoke_json: InvokeJson, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "kohya.safetensors"
    answer = invoke_json("adapters", "convert", file, out, "--to", "kohya")
    assert answer == {"files": [str(out)]}


@pytest.mark.parametrize("command", ["load", "unload"])
def test_keeping_on_the_device_needs_a_server_that_stays(invoke: Invoke, command: str) -> None:
    result = invoke("adapters", command, "night")
    assert (result.exit_code, "server" in result.stderr) == (2, True), result.stderr

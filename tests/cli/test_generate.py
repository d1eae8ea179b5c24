"""``diptych generate`` against the real service on the nano pair."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from typer.testing import Result

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]
PROMPT = "a large red heart in the center on a dotted cream background"


def test_writes_the_picture_where_it_was_asked_to(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    out = tmp_path / "heart.png"
    answer = invoke_json(
        "generate", PROMPT, "--server", server, "--steps", 2, "--seed", 3, "-o", out
    )
    with Image.open(out) as picture:
        assert (picture.size, picture.format) == ((128, 128), "PNG")
    assert (answer["seed"], answer["files"][0]["path"]) == (3, str(out))


def test_several_pictures_of_every_flag_fill_a_folder(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    flags = (
        "--negative blurry --refiner-prompt star --refiner-negative dull --steps 4 --boundary 0.5 "
        "--guidance 3 --refiner-guidance 2 --guidance-rescale 0.5 --refiner-guidance-rescale 0.1 "
        "--solver dpmpp_2m --seed 5 --num-images 2 --size 64x64 --format webp --preview-every 2 "
        "--solver-history carry"
    ).split()
    answer = invoke_json("generate", PROMPT, "--server", server, *flags, "-o", tmp_path)
    names = {path.name for path in tmp_path.iterdir() if "step" not in path.name}
    assert names == {"diptych-5.webp", "diptych-6.webp"}
    resolved = {key: answer[key] for key in ("num_steps", "boundary", "solver", "width")}
    assert resolved == {"num_steps": 4, "boundary": 0.5, "solver": "dpmpp_2m", "width": 64}


def test_previews_lie_beside_their_picture(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    out = tmp_path / "a.png"
    common = ("--server", server, "--steps", 4, "--seed", 1, "--preview-every", 2, "-o", out)
    invoke_json("generate", PROMPT, *common)
    assert (tmp_path / "a.step002.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_latents_are_written_with_their_settings(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    out = tmp_path / "a.safetensors"
    flags = ("--steps", 2, "--seed", 9, "--num-images", 2, "--format", "latents")
    invoke_json("generate", PROMPT, "--server", server, *flags, "-o", out)
    with safe_open(out, framework="numpy") as file:
        latents, metadata = file.get_tensor("latents"), file.metadata()
    assert (latents.shape, latents.dtype) == ((2, 4, 16, 16), np.dtype(np.float32))
    told = {key: metadata[key] for key in ("base.prompt", "seed", "num_steps", "solver")}
    assert told == {"base.prompt": PROMPT, "seed": "9", "num_steps": "2", "solver": "euler"}


def test_same_seed_paints_the_same_bytes(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    runs = [
        invoke_json("generate", PROMPT, "--server", server, "--steps", 2, "--seed", 4, "-o", out)
        for out in (tmp_path / "a.png", tmp_path / "b.png")
    ]
    assert runs[0]["files"][0]["sha256"] == runs[1]["files"][0]["sha256"]


def test_every_bad_flag_is_named_in_one_line(invoke: Invoke, server: str, tmp_path: Path) -> None:
    bad = ("--steps", 0, "--size", "60x64", "--boundary", 1.5, "--solver", "eular")
    result = invoke("generate", PROMPT, "--server", server, *bad, "-o", tmp_path / "a.png")
    named = [
        flag for flag in ("--steps", "--size", "--boundary", "--solver") if flag in result.stderr
    ]
    assert (result.exit_code, len(named)) == (2, 4), result.stderr
    assert result.stderr.count("\n") == 1


def test_what_the_command_refuses_hides_nothing_that_the_server_refuses(
    invoke: Invoke, server: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    bad = {
        "--format": "tiff",
        "--size": "big",
        "--steps": 10**12,
        "--solver-history": "forget",
        "--long-prompt": "shout",
        "--out": tmp_path / "file" / "a.png",
        "--base": "nano",
        "--solver": "eular",
        "--guidance": "nan",
        "--quality": 0,
    }
    flags = [part for pair in bad.items() for part in pair]
    result = invoke("generate", "", "--server", server, *flags)
    named = [flag for flag in [*bad, "PROMPT", "--server"] if f"{flag} (" in result.stderr]
    missing = {*bad, "PROMPT", "--server"} - {*named} - {"--base", "--server"}
    assert (result.exit_code, missing) == (2, set()), result.stderr
    assert "--server: it has its own --base" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--steps", "--seed", "--num-images", "--preview-every"])
def test_number_that_no_message_holds_is_named_by_its_flag_once(
    invoke: Invoke, server: str, flag: str
) -> None:
    result = invoke("generate", PROMPT, "--server", server, flag, 10**20)
    assert (result.exit_code, result.stderr.count(f"{flag} (")) == (2, 1), result.stderr
    assert "output" not in result.stderr


def test_what_the_command_refuses_is_told_where_no_server_answers(
    invoke: Invoke, free_port: int
) -> None:
    address = f"127.0.0.1:{free_port}"
    result = invoke("generate", PROMPT, "--server", address, "--size", "big", "--timeout", 5)
    assert (result.exit_code, "--size (size): 'big' is not WxH" in result.stderr) == (2, True)


def test_a_refused_call_writes_nothing(invoke: Invoke, server: str, tmp_path: Path) -> None:
    invoke("generate", PROMPT, "--server", server, "--steps", 0, "-o", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_call_as_json_lists_the_violations(invoke: Invoke, server: str) -> None:
    result = invoke("generate", "", "--server", server, "--guidance", "nan", "--json")
    fields = {one["field"] for one in json.loads(result.stdout)["error"]["violations"]}
    assert (result.exit_code, fields) == (2, {"base.prompt", "base.guidance_scale"})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--format", "tiff"), "--format"),
        (("--format", "png", "-o", "a.webp"), "--format"),
        (("--size", "big"), "--size"),
        (("--long-prompt", "shout"), "--long-prompt"),
        (("--solver-history", "forget"), "--solver-history"),
        (("--base", "nano"), "--server"),
        (
            ("--base-only", "--refiner-prompt", "x", "--refiner-guidance", "2"),
            "--base-only (base_only): runs no refiner; leave out --refiner-prompt, --refiner-g",
        ),
    ],
)
def test_flags_that_contradict_are_refused(
    invoke: Invoke, server: str, flags: tuple[str, ...], named: str
) -> None:
    result = invoke("generate", PROMPT, "--server", server, *flags)
    assert (result.exit_code, named in result.stderr) == (2, True), result.stderr


def test_server_that_is_not_there_is_one_line(invoke: Invoke, free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    result = invoke("generate", PROMPT, "--server", address, "--timeout", 5)
    assert (result.exit_code, address in result.stderr) == (1, True)
    assert "Traceback" not in result.output


def test_deadline_that_cannot_be_met_is_told(invoke: Invoke, server: str) -> None:
    result = invoke("generate", PROMPT, "--server", server, "--timeout", 0.001, "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (1, "DEADLINE_EXCEEDED")

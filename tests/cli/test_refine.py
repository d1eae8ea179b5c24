"""``diptych refine`` goes on where ``generate`` stopped, or from a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import Result

from diptych.cli.files import read_latents

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]
PROMPT = "a large red heart in the center on a dotted cream background"


def test_base_then_refine_is_the_picture_of_one_call(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    common = ("--server", server, "--steps", 6, "--seed", 3, "--boundary", 0.5)
    half, split, whole = (tmp_path / f"{name}.safetensors" for name in ("half", "split", "whole"))
    invoke_json("generate", PROMPT, *common, "--base-only", "-o", half)
    invoke_json("refine", half, "--server", server, "-o", split)
    invoke_json("generate", PROMPT, *common, "-o", whole)
    np.testing.assert_allclose(read_latents(split).latents, read_latents(whole).latents, atol=1e-4)


def test_refine_goes_on_with_the_guidance_that_the_latents_were_made_with(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    common = ("--server", server, "--steps", 4, "--seed", 3, "--boundary", 0.5)
    flags = (*common, "--guidance", 9.2, "--guidance-rescale", 0.7, "--negative", "dots")
    half, split, whole = (tmp_path / f"{name}.safetensors" for name in ("half", "split", "whole"))
    invoke_json("generate", PROMPT, *flags, "--base-only", "-o", half)
    invoke_json("refine", half, "--server", server, "-o", split)
    invoke_json("generate", PROMPT, *flags, "-o", whole)
    np.testing.assert_allclose(read_latents(split).latents, read_latents(whole).latents, atol=1e-4)


def test_picture_is_refined_at_a_strength(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGB", (128, 128), (90, 120, 200)).save(source)
    flags = ("--prompt", PROMPT, "--strength", 0.5, "--steps", 4, "-n", 2)
    invoke_json("refine", source, "--server", server, *flags, "-o", out)
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "out-0.png", "out-1.png"}


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("gone.png", ("-p", "x"), "cannot read"),
        ("gone.safetensors", ("-p", "x"), "cannot read"),
        ("flat.safetensors", ("-p", "x"), "expected float32 [N, 4, h, w]"),
        ("odd.safetensors", ("-p", "x"), "metadata num_steps is 'many'"),
        ("long.safetensors", ("-p", "x"), "metadata num_steps is '9"),
        ("good.safetensors", ("-p", "x", "--strength", "0.3"), "--strength"),
        ("good.safetensors", (), "--prompt"),
        ("nan.safetensors", ("-p", "x", "--boundary", "0.5"), "SOURCE"),
    ],
)
def test_bad_sources_are_named(
    invoke: Invoke, server: str, tmp_path: Path, name: str, flags: tuple[str, ...], message: str
) -> None:
    good = np.zeros((1, 4, 16, 16), np.float32)
    save_file({"latents": good}, tmp_path / "good.safetensors")
    save_file({"latents": good[0]}, tmp_path / "flat.safetensors")
    save_file({"latents": good * np.nan}, tmp_path / "nan.safetensors")
    save_file({"latents": good}, tmp_path / "odd.safetensors", {"num_steps": "many"})
    save_file({"latents": good}, tmp_path / "long.safetensors", {"num_steps": "9" * 5000})
    result = invoke("refine", tmp_path / name, "--server", server, *flags)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_source_that_cannot_be_read_hides_nothing_else(
    invoke: Invoke, server: str, tmp_path: Path
) -> None:
    flags = ("--format", "tiff", "--steps", 0, "--guidance", "nan", "--solver", "eular")
    result = invoke("refine", tmp_path / "gone.safetensors", "--server", server, *flags)
    named = ("SOURCE", "--format", "--steps", "--guidance", "--solver", "--prompt")
    missing = [flag for flag in named if f"{flag} (" not in result.stderr]
    assert (result.exit_code, missing) == (2, []), result.stderr


def test_everything_odd_in_a_latents_file_is_named(
    invoke: Invoke, server: str, tmp_path: Path
) -> None:
    odd = {"num_steps": "many", "seed": "-1", "eta": "nan"}
    save_file({"latents": np.zeros((1, 4, 16, 16), np.float32)}, tmp_path / "a.safetensors", odd)
    result = invoke("refine", tmp_path / "a.safetensors", "--server", server, "-p", "x")
    missing = [name for name in odd if f"metadata {name} is" not in result.stderr]
    assert (result.exit_code, missing) == (2, []), result.stderr

"""``diptych demo`` leaves the pictures that the README shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.cli.demo import ADAPTED, PROMPTS
from diptych.nano import scenes

InvokeJson = Callable[..., dict[str, Any]]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def test_demo_writes_picture_half_and_sheet(
    invoke_json: InvokeJson, server: str, tmp_path: Path
) -> None:
    files = invoke_json("demo", "--server", server, "--out", tmp_path)["files"]
    assert sorted(Path(path).name for path in files.values()) == [
        "adapters.png",
        "contact-sheet.png",
        "picture.png",
        "without-refiner.png",
    ]
    picture, half = pixels(tmp_path / "picture.png"), pixels(tmp_path / "without-refiner.png")
    assert picture.shape == half.shape == (128, 128, 3)
    assert (picture != half).any()
    assert pixels(tmp_path / "contact-sheet.png").shape[1] > 4 * 128


def test_prompts_are_of_the_world_the_pair_knows() -> None:
    words = {*scenes.SHAPES, *scenes.COLOURS, *scenes.BACKGROUNDS, *scenes.TEXTURES, *scenes.SIZES}
    places = " ".join(scenes.PLACES).split()
    known = words | {*places, "a", "on", "background"}
    assert {word for prompt in PROMPTS for word in prompt.split()} - known == set()


def test_adapters_are_shown_alone_and_together() -> None:
    assert [adapters for _, adapters in ADAPTED[:4]] == [
        (),
        ("night",),
        ("moon",),
        ("moon", "night"),
    ]
    assert all(("<moon>" in prompt) == ("moon" in adapters) for prompt, adapters in ADAPTED)

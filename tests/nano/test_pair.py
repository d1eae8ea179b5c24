"""The shipped folders are there and are what they say."""

import json

import pytest

from diptych.errors import ModelNotFound
from diptych.nano.pair import EXPERTS, expert_path, pair_path


def test_pair_path_holds_base_and_refiner() -> None:
    assert {"base", "refiner"} <= {entry.name for entry in pair_path().iterdir()}


@pytest.mark.parametrize("name", EXPERTS)
def test_every_expert_is_in_diffusers_layout(name: str) -> None:
    index = json.loads((expert_path(name) / "model_index.json").read_text())
    parts = {"unet", "vae", "scheduler", "tokenizer", "tokenizer_2", "text_encoder"}
    assert parts <= index.keys()


def test_unknown_expert_is_named_in_the_error() -> None:
    with pytest.raises(ModelNotFound, match=r"nano/turbo.*base, refiner, base-single"):
        expert_path("turbo")


def test_all_weights_are_small_enough_to_ship() -> None:
    sizes = [path.stat().st_size for path in pair_path().rglob("*.safetensors")]
    assert max(sizes) <= 20 * 2**20
    assert sum(sizes) <= 60 * 2**20

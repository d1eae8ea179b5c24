"""The plain loop learns: it is what a user would run, not a straw man."""

from pathlib import Path

import pytest
import torch

from diptych.bench.training_reference import PlainConfig, PlainModels, PlainTraining
from diptych.nano.pair import expert_path
from diptych.nano.pictures import draw_examples

CONFIG = PlainConfig(num_steps=2, batch_size=2, rank=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number, example in enumerate(draw_examples("plain", count=3)):
        path = folder / f"{number}.png"
        example.picture.save(path)
        found.append((path, example.text))
    return found


@pytest.mark.parametrize("encodes", [True, False])
def test_only_the_updates_factors_change(
    pictures: list[tuple[Path, str]], *, encodes: bool
) -> None:
    training = PlainTraining(PlainModels.load(expert_path("base-single")), CONFIG)
    before = {name: one.clone() for name, one in training.unet.state_dict().items()}
    assert training.train(pictures, encodes=encodes) > 0
    after = training.unet.state_dict()
    changed = {name for name, one in before.items() if not torch.equal(one, after[name])}
    assert changed
    assert all(".lora_" in name for name in changed)

"""Six steps are three, a state written and read, and three more: bit for bit, every optimizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from diptych.errors import CheckpointInvalid
from diptych.training.optimizer_state import load_optimizer_state, optimizer_state
from diptych.training.optimizers import make_optimizer
from diptych.training.spec import LrScheduleSpec, OptimizerName, OptimizerSpec
from diptych.training.trainables.trainable import ParameterGroup

NAMES: tuple[OptimizerName, ...] = (
    "adamw",
    "adamw_8bit",
    "adafactor",
    "lion",
    "prodigy",
    "schedule_free_adamw",
    "stable_adamw",
)
SHAPES = {"unet": [(80, 64), (4, 3, 3, 3), (90, 70)], "text_encoder": [(10,), (6, 4)]}
WARM = LrScheduleSpec(name="constant_with_warmup", num_warmup_steps=4)


class Training:
    """A model's parameters and its optimizer; gradients depend on the step and the weights."""

    def __init__(self, name: OptimizerName, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.groups = [
            ParameterGroup(
                name=group,
                parameters=[
                    nn.Parameter(torch.randn(shape, generator=generator).to(device))
                    for shape in shapes
                ],
                weight_decay=0.1 if group == "unet" else None,
            )
            for group, shapes in SHAPES.items()
        ]
        self.optimizer: Optimizer = make_optimizer(
            OptimizerSpec(name=name), self.groups, lr_schedule=WARM
        )

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.groups for p in group.parameters]

    def train(self, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for p in self.parameters:
                p.grad = torch.randn(p.shape, generator=generator).to(p.device) + p.detach()
            self.optimizer.step()

    def take(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            for mine, other in zip(self.parameters, weights, strict=True):
                mine.copy_(other)


def written(optimizer: Optimizer, folder: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the optimizer's state after a way through files."""
    tensors, plain = optimizer_state(optimizer)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(plain, allow_nan=False))
    return load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_training_goes_on_bit_for_bit(name: OptimizerName, device: str, tmp_path: Path) -> None:
    whole = Training(name, device)
    whole.train(range(6))
    first = Training(name, device)
    first.train(range(3))
    second = Training(name, device)
    second.take(first.parameters)
    load_optimizer_state(second.optimizer, *written(first.optimizer, tmp_path))
    second.train(range(3, 6))
    for found, wanted in zip(second.parameters, whole.parameters, strict=True):
        assert torch.equal(found, wanted)
    tensors, plain = optimizer_state(whole.optimizer)
    again, plain_again = optimizer_state(second.optimizer)
    assert plain_again == plain
    assert all(torch.equal(again[place], tensors[place]) for place in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_going_on_without_the_state_gives_other_weights(name: OptimizerName) -> None:
    whole, first, second = Training(name), Training(name), Training(name)
    whole.train(range(6))
    first.train(range(3))
    second.take(first.parameters)
    second.train(range(3, 6))
    assert not torch.equal(second.parameters[0], whole.parameters[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_state_before_the_first_step_is_one_too(name: OptimizerName, tmp_path: Path) -> None:
    whole, second = Training(name), Training(name)
    load_optimizer_state(second.optimizer, *written(Training(name).optimizer, tmp_path))
    whole.train(range(2))
    second.train(range(2))
    assert torch.equal(second.parameters[0], whole.parameters[0])


def test_loading_takes_copies() -> None:
    first, second = Training("adamw"), Training("adamw")
    first.train(range(1))
    tensors, plain = optimizer_state(first.optimizer)
    before = {place: tensor.clone() for place, tensor in tensors.items()}
    load_optimizer_state(second.optimizer, tensors, plain)
    second.train(range(1, 3))
    assert all(torch.equal(tensors[place], before[place]) for place in tensors)


def test_refuses_a_state_of_other_groups() -> None:
    tensors, plain = optimizer_state(Training("adamw").optimizer)
    alone = make_optimizer(OptimizerSpec(), Training("adamw").groups[:1])
    with pytest.raises(CheckpointInvalid, match="groups"):
        load_optimizer_state(alone, tensors, plain)


def test_refuses_a_state_of_other_shapes() -> None:
    training = Training("adamw")
    training.train(range(1))
    tensors, plain = optimizer_state(training.optimizer)
    cut = {place: tensor[:1] if tensor.ndim else tensor for place, tensor in tensors.items()}
    with pytest.raises(CheckpointInvalid, match="exp_avg of parameter 0"):
        load_optimizer_state(training.optimizer, cut, plain)


@pytest.mark.parametrize("plain", [{}, {"mapping": []}, {"mapping": [["state", {"tensor": "x"}]]}])
def test_refuses_what_is_no_state(plain: dict[str, Any]) -> None:
    with pytest.raises(CheckpointInvalid, match="optimizer state"):
        load_optimizer_state(Training("adamw").optimizer, {}, plain)

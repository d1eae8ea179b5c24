"""Batches padded to the sizes that were compiled at start."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from diptych.inference.conditions import Conditions
from diptych.inference.forward import Forward, Predict, batch_sizes


class FakeUnet:
    """Adds each row's timestep to it, eagerly; notes the batches it saw."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.module = nn.Module()
        self.module.config = SimpleNamespace(in_channels=4)  # type: ignore[assignment]
        self.eager: list[int] = []

    def predict(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        assert all(len(rows) == len(x) for rows in conditions.values())
        self.eager.append(len(x))
        return x + timestep.view(-1, 1, 1, 1)


class FakeCompiler:
    """Compiles to the same function, noting the batches it is called with."""

    def __init__(self) -> None:
        self.replayed: list[int] = []

    def __call__(self, predict: Predict) -> Predict:
        def replay(x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
            self.replayed.append(len(x))
            return predict(x, timestep, **conditions)

        return replay


def conditions(num_rows: int, text_length: int = 7) -> Conditions:
    return Conditions(
        hidden=torch.zeros(num_rows, text_length, 3),
        pooled=torch.zeros(num_rows, 2),
        time_ids=torch.zeros(num_rows, 6),
    )


@pytest.fixture
def compiler() -> FakeCompiler:
    return FakeCompiler()


@pytest.fixture
def forward(compiler: FakeCompiler) -> Forward:
    made = Forward(FakeUnet(), compiler=compiler, sizes=(1, 2, 4))  # type: ignore[arg-type]
    made.warm_up(2, 2, conditions(1))
    compiler.replayed.clear()
    return made


def test_sizes_are_powers_of_two_and_the_most() -> None:
    assert batch_sizes(24) == (1, 2, 4, 8, 16, 24)
    assert batch_sizes(32) == (1, 2, 4, 8, 16, 32)


def test_pads_to_the_next_size_and_cuts_back(forward: Forward, compiler: FakeCompiler) -> None:
    timestep = torch.tensor([1.0, 2.0, 3.0])
    output = forward(torch.zeros(3, 4, 2, 2), timestep, conditions(3))
    assert compiler.replayed == [4]
    assert output[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("num_rows", "edge", "text_length"), [(1, 3, 7), (1, 2, 14), (5, 2, 7)])
def test_shapes_that_are_not_warm_run_eagerly(
    forward: Forward, compiler: FakeCompiler, num_rows: int, edge: int, text_length: int
) -> None:
    rows = conditions(num_rows, text_length)
    forward(torch.zeros(num_rows, 4, edge, edge), torch.zeros(num_rows), rows)
    assert compiler.replayed == []


def test_warming_up_measures_every_size() -> None:
    made = Forward(FakeUnet(), compiler=FakeCompiler(), sizes=(1, 2, 4))  # type: ignore[arg-type]
    assert set(made.warm_up(2, 2, conditions(1))) == {1, 2, 4}


def test_without_a_compiler_nothing_is_padded() -> None:
    unet = FakeUnet()
    made = Forward(unet, compiler=None, sizes=(1, 2, 4))  # type: ignore[arg-type]
    made(torch.zeros(3, 4, 2, 2), torch.zeros(3), conditions(3))
    assert unet.eager == [3]

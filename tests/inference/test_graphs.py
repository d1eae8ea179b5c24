"""What was recorded is replayed with other numbers, and recorded once for each shape."""

import pytest
import torch
from torch import Tensor

from diptych.inference.graphs import Graphs
from diptych.kernels.low_rank import RowTensors

pytestmark = pytest.mark.gpu


def predict(x: Tensor, timestep: Tensor, rows: RowTensors | None, *, hidden: Tensor) -> Tensor:
    """Return x * timestep + hidden, and the rows' scales if there are any, [B, D]."""
    found = x * timestep[:, None] + hidden
    return found if rows is None else found + rows.scales.sum(1, keepdim=True)


def arguments(num_rows: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator("cuda").manual_seed(seed)
    x, hidden = torch.randn(2, num_rows, 5, generator=rng, device="cuda")
    return x, torch.arange(num_rows, device="cuda") + 1.0, hidden


def lines(num_rows: int, scale: float) -> RowTensors:
    index = torch.zeros(num_rows, 3, dtype=torch.int32, device="cuda")
    return RowTensors(lines=index, scales=torch.full((num_rows, 3), scale, device="cuda"))


@pytest.fixture
def graphs() -> Graphs:
    return Graphs(predict, torch.cuda.graph_pool_handle())


def test_replays_with_other_numbers(graphs: Graphs) -> None:
    for seed in range(3):
        x, timestep, hidden = arguments(4, seed=seed)
        expected = predict(x, timestep, None, hidden=hidden)
        assert torch.equal(graphs(x, timestep, None, hidden=hidden), expected)
    assert len(graphs) == 1


def test_every_shape_is_recorded_once(graphs: Graphs) -> None:
    for num_rows in (1, 2, 1, 2):
        x, timestep, hidden = arguments(num_rows)
        graphs(x, timestep, None, hidden=hidden)
    assert len(graphs) == 2


def test_rows_with_lines_have_a_graph_of_their_own(graphs: Graphs) -> None:
    x, timestep, hidden = arguments(2)
    for rows in (None, lines(2, 0.5), lines(2, 2.0), None):
        expected = predict(x, timestep, rows, hidden=hidden)
        assert torch.equal(graphs(x, timestep, rows, hidden=hidden), expected)
    assert len(graphs) == 2

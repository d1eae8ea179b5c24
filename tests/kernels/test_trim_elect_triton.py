"""The kernel gives what the torch reference gives, through Triton's interpreter without a GPU."""

import pytest
import torch
from torch import Tensor

from diptych.kernels import trim_elect as reference
from diptych.kernels.trim_elect import Election
from diptych.kernels.trim_elect_triton import trim_elect
from support.made_adapters import noise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("election", ["total", "frequency"])
@pytest.mark.parametrize("threshold", [0.0, 0.7])
@pytest.mark.parametrize("votes", [(1.0, 1.0, 1.0), (0.3, -1.0, 2.0)])
def test_elections_go_as_in_the_reference(
    election: Election, threshold: float, votes: tuple[float, ...]
) -> None:
    arguments: dict[str, Tensor] = {
        "votes": torch.tensor(votes),
        "thresholds": torch.tensor([threshold, 0.5 * threshold, 2 * threshold]),
    }
    vectors, weights = noise(3, 3000, seed=3), torch.tensor([1.0, -0.5, 2.0])
    expected = reference.elect_reference(vectors, weights, election=election, **arguments)
    on_device = {name: tensor.to(DEVICE) for name, tensor in arguments.items()}
    found = trim_elect(vectors.to(DEVICE), weights.to(DEVICE), election=election, **on_device)
    assert torch.allclose(found.cpu(), expected, rtol=1e-6, atol=1e-7)

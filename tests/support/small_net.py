"""A small network with every kind of layer that adapters reach, and branches for it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from diptych.adapters.binding import Branch
from diptych.adapters.row_lines import Lines, RowUses

__all__ = ["SmallNet", "branch", "branches", "inputs", "moved", "small_net", "uses"]


class SmallNet(nn.Module):
    """Convolutions with and without stride, linear maps of pictures and of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False)
        self.point = nn.Conv2d(16, 16, 1)
        self.query = nn.Linear(16, 24, bias=False)
        self.out = nn.Linear(24, 16)
        self.time = nn.Linear(6, 16)

    @override
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return [B, 16, 16] of pictures [B, 4, 8, 8] and vectors [B, 6]."""
        pixels = self.point(self.down(self.conv(x))) + self.time(time)[:, :, None, None]
        tokens = pixels.flatten(2).transpose(1, 2)
        joined: Tensor = tokens + self.out(torch.tanh(self.query(tokens)))
        return joined


def small_net() -> SmallNet:
    """Return the network with weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        return SmallNet().requires_grad_(requires_grad=False)


def branch(
    weight: Tensor, rank: int, *, seed: int = 0, out_gain: bool = False, in_gain: bool = False
) -> Branch:
    """Return a branch of random factors for a layer of this weight."""
    rng = torch.Generator().manual_seed(seed)
    out, inner = weight.shape[0], weight.shape[1:]
    return Branch(
        down=0.2 * torch.randn(rank, *inner, generator=rng),
        up=0.2 * torch.randn(out, rank, generator=rng),
        out_gain=0.3 * torch.randn(out, generator=rng) if out_gain else None,
        in_gain=0.3 * torch.randn(inner[0], generator=rng) if in_gain else None,
    )


def branches(net: nn.Module, rank: int, *, seed: int = 0, **gains: bool) -> dict[str, Branch]:
    """Return a branch for every layer of ``net``."""
    return {
        name: branch(module.weight, rank, seed=seed + position, **gains)
        for position, (name, module) in enumerate(net.named_modules())
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def inputs(num_rows: int) -> tuple[Tensor, Tensor]:
    """Return pictures [B, 4, 8, 8] and vectors [B, 6]."""
    rng = torch.Generator().manual_seed(num_rows)
    return torch.randn(num_rows, 4, 8, 8, generator=rng), torch.randn(num_rows, 6, generator=rng)


def moved(net: SmallNet, found: Mapping[str, Branch]) -> SmallNet:
    """Return a copy of ``net`` in float64 whose weights hold the branches."""
    copy = SmallNet().double()
    copy.load_state_dict(net.state_dict())
    for name, branch_found in found.items():
        weight = copy.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        scaled = weight.data
        if branch_found.in_gain is not None:
            across = (-1, *[1] * (weight.ndim - 2))
            scaled = scaled * (1 + branch_found.in_gain.double()).view(across)
        if branch_found.out_gain is not None:
            across = (-1, *[1] * (weight.ndim - 1))
            scaled = scaled * (1 + branch_found.out_gain.double()).view(across)
        product = branch_found.up.double() @ branch_found.down.double().flatten(1)
        weight.data = scaled + product.view(weight.shape)
    return copy


def uses(*rows: Lines | None) -> list[RowUses]:
    """Return rows that use one set each, as it is, or none."""
    return [() if lines is None else ((lines, 1.0),) for lines in rows]

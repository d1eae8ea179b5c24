"""Rows of one batch with unlike sets equal each alone, and equal weights that hold the update."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diptych.adapters.bank import Bank
from diptych.adapters.binding import Branch
from diptych.adapters.injection import inject
from diptych.adapters.row_lines import Lines
from diptych.models.row_independence import keep_rows_independent
from support.small_net import SmallNet, branches, inputs, moved, small_net, uses

SETS: dict[str, tuple[int, dict[str, bool]]] = {
    "rank 4": (4, {}),
    "rank 64": (64, {}),
    "rank 128": (128, {}),
    "dora": (16, {"out_gain": True}),
    "dora over inputs": (12, {"in_gain": True}),
    "gains alone": (0, {"out_gain": True}),
}


class Adapted:
    """A network with a bank that holds every set of ``SETS``."""

    def __init__(self, *, fixed_shapes: bool) -> None:
        self.plain = small_net()
        self.net = small_net()
        self.bank: Bank = inject(self.net, num_lines=400, fixed_shapes=fixed_shapes)
        self.branches = {
            name: branches(self.plain, rank, seed=rank, **gains)
            for name, (rank, gains) in SETS.items()
        }
        self.branches["two layers"] = {
            name: self.branches["rank 4"][name] for name in ("query", "conv")
        }
        self.lines: dict[str | None, Lines | None] = {
            name: self.bank.write(self.bank.pack(found)) for name, found in self.branches.items()
        }
        self.lines[None] = None

    def run(self, names: list[str | None], given: tuple[Tensor, Tensor]) -> Tensor:
        rows = self.bank.select(uses(*[self.lines[name] for name in names]))
        with self.bank.using(rows):
            found: Tensor = self.net(*given)
        return found

    def moved(self, name: str | None) -> SmallNet:
        return moved(self.plain, {} if name is None else self.branches[name])


@pytest.fixture(scope="module", params=[False, True], ids=["grouped", "fixed shapes"])
def adapted(request: pytest.FixtureRequest) -> Adapted:
    return Adapted(fixed_shapes=request.param)


@pytest.fixture(scope="module")
def grouped() -> Adapted:
    return Adapted(fixed_shapes=False)


MIXED: list[str | None] = [None, *SETS, "two layers", "dora", None, "rank 4"]


@torch.no_grad()
def test_every_row_of_a_mixed_batch_equals_weights_that_hold_its_update(adapted: Adapted) -> None:
    given = inputs(len(MIXED))
    found = adapted.run(MIXED, given)
    rows = [tuple(tensor[row : row + 1].double() for tensor in given) for row in range(len(MIXED))]
    expected = torch.cat([adapted.moved(name)(*row) for name, row in zip(MIXED, rows, strict=True)])
    scale = expected.abs().amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(found.double() / scale, expected / scale, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(grouped: Adapted) -> None:
    given = inputs(len(MIXED))
    together = grouped.run(MIXED, given)
    for row, name in enumerate(MIXED):
        pictures, vectors = (tensor[[row, row]] for tensor in given)
        alone = grouped.run([name, name], (pictures, vectors))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_row_may_use_several_sets_each_at_its_scale(adapted: Adapted) -> None:
    small, wide = adapted.lines["rank 4"], adapted.lines["rank 64"]
    assert small is not None
    assert wide is not None
    given = inputs(3)
    with adapted.bank.using(adapted.bank.select([(), ((small, 0.5), (wide, -0.25)), ()])):
        found = adapted.net(*given)[1:2]
    both = dict(adapted.branches["rank 4"])
    for name, branch in adapted.branches["rank 64"].items():
        both[name] = Branch(
            down=torch.cat([both[name].down, branch.down]),
            up=torch.cat([0.5 * both[name].up, -0.25 * branch.up], dim=1),
        )
    pictures, vectors = (tensor[1:2].double() for tensor in given)
    expected = moved(adapted.plain, both)(pictures, vectors)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_rows_without_a_set_equal_the_plain_network_to_the_bit(adapted: Adapted) -> None:
    given = inputs(len(MIXED))
    found, plain = adapted.run(MIXED, given), adapted.plain(*given)
    alone = [row for row, name in enumerate(MIXED) if name is None]
    assert torch.equal(found[alone], plain[alone])


@torch.no_grad()
def test_a_batch_without_sets_equals_the_plain_network_to_the_bit(adapted: Adapted) -> None:
    given = inputs(3)
    assert torch.equal(adapted.run([None] * 3, given), adapted.plain(*given))


@torch.no_grad()
def test_weights_do_not_change_whatever_runs(adapted: Adapted) -> None:
    adapted.run(MIXED, inputs(len(MIXED)))
    state = adapted.plain.state_dict()
    assert all(torch.equal(found, state[name]) for name, found in adapted.net.state_dict().items())


@torch.no_grad()
def test_inputs_are_left_as_they_are(adapted: Adapted) -> None:
    given = inputs(len(MIXED))
    kept = [tensor.clone() for tensor in given]
    adapted.run(MIXED, given)
    assert all(torch.equal(*pair) for pair in zip(given, kept, strict=True))


@pytest.fixture(scope="module")
def nano(nano_pair: Path) -> tuple[UNet2DConditionModel, Bank]:
    """Return the nano base as it is served on a CPU, with a bank."""
    unet = UNet2DConditionModel.from_pretrained(nano_pair / "base" / "unet")
    keep_rows_independent(unet)
    return unet.requires_grad_(requires_grad=False).eval(), inject(unet, num_lines=200)


def nano_sets(unet: nn.Module, bank: Bank) -> list[Lines | None]:
    """Return five sets of unlike ranks, one of them DoRA, one with convolutions, and none."""
    found = branches(unet, 12)
    attention = {name: branch for name, branch in found.items() if ".attn" in name}
    doras = {name: b for name, b in branches(unet, 4, out_gain=True).items() if ".attn" in name}
    convs = {name: branch for name, branch in branches(unet, 16, seed=3).items() if "conv" in name}
    packed = [bank.pack(chosen) for chosen in (attention, doras, convs)]
    wide = {name: b for name, b in branches(unet, 64, seed=9).items() if "to_q" in name}
    return [None, *(bank.write(one) for one in packed), bank.write(bank.pack(wide))]


@torch.inference_mode()
def test_rows_of_a_unet_do_not_depend_on_their_batch_to_the_bit(
    nano: tuple[UNet2DConditionModel, Bank],
) -> None:
    unet, bank = nano
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 8, 8, generator=rng)
    text, pooled = torch.randn(5, 77, 128, generator=rng), torch.randn(5, 64, generator=rng)
    time_ids = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]).repeat(5, 1)
    timestep = torch.linspace(100, 900, 5)
    sets = nano_sets(unet, bank)

    def predict(rows: list[int]) -> Tensor:
        conditions = {"text_embeds": pooled[rows], "time_ids": time_ids[rows]}
        with bank.using(bank.select(uses(*[sets[row] for row in rows]))):
            found: Tensor = unet(
                x[rows], timestep[rows], text[rows], added_cond_kwargs=conditions
            ).sample
        return found

    together = predict([0, 1, 2, 3, 4])
    for rows in ([1], [3], [4, 2]):
        assert torch.equal(predict(rows), together[rows])

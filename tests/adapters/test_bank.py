"""Lines are handed out and taken back without a trace, and what is written is what was packed."""

import gc
import random
from dataclasses import replace

import psutil
import pytest
import torch
from torch import nn

from diptych.adapters.bank import Bank
from diptych.adapters.injection import inject
from diptych.adapters.row_lines import Lines
from diptych.errors import AdapterInvalid, AdapterSlotsFull
from diptych.kernels.low_rank import Factors
from support.small_net import branch, branches, small_net, uses


@pytest.fixture
def net() -> nn.Module:
    return small_net()


@pytest.fixture
def bank(net: nn.Module) -> Bank:
    return inject(net, num_lines=40)


def written(bank: Bank, net: nn.Module, rank: int, **gains: bool) -> Lines:
    return bank.write(bank.pack(branches(net, rank, **gains)))


def total(bank: Bank) -> float:
    """Return the sum of everything the bank holds."""
    sums = [f.down.abs().sum() + f.up.abs().sum() for f in factors(bank)]
    return float(torch.stack(sums).sum())


def factors(bank: Bank) -> list[Factors]:
    return [layer.factors for layer in bank.layers.values()]


def test_a_set_lies_in_the_same_lines_of_every_layer(bank: Bank, net: nn.Module) -> None:
    found = branches(net, 3)
    lines = bank.write(bank.pack(found))
    for name, layer in bank.layers.items():
        numbers = torch.tensor(lines.numbers)
        assert torch.equal(layer.factors.down[numbers], found[name].down.flatten(1))
        assert torch.equal(layer.factors.up[numbers].mT, found[name].up)


def test_a_set_takes_as_many_lines_as_its_largest_rank(bank: Bank) -> None:
    weights = {name: layer.weight for name, layer in bank.layers.items()}
    found = {"query": branch(weights["query"], 3), "out": branch(weights["out"], 7)}
    assert bank.pack(found).num_lines == 7


def test_gains_take_one_line_more(bank: Bank, net: nn.Module) -> None:
    found = branches(net, 3, out_gain=True)
    lines = bank.write(bank.pack(found))
    assert len(lines.numbers) == 4
    gain = found["query"].out_gain
    assert gain is not None
    assert torch.equal(bank.layers["query"].factors.up[lines.gain_line], gain)


def test_gains_of_inputs_lie_in_the_other_half(bank: Bank, net: nn.Module) -> None:
    found = branches(net, 3, in_gain=True)
    lines = bank.write(bank.pack(found))
    gain = found["conv"].in_gain
    assert gain is not None
    assert torch.equal(bank.layers["conv"].factors.down[lines.gain_line, : len(gain)], gain)


def test_a_set_without_layers_takes_no_line(bank: Bank) -> None:
    lines = bank.write(bank.pack({}))
    assert lines.numbers == ()
    assert bank.select(uses(lines)) is not None


def test_freed_lines_are_zeros_again(bank: Bank, net: nn.Module) -> None:
    bank.free(written(bank, net, 5, out_gain=True, in_gain=True))
    assert bank.num_free == 39
    assert total(bank) == 0.0
    assert not any(found.used.any() for found in factors(bank))


def test_only_layers_with_factors_are_marked_as_used(bank: Bank) -> None:
    weight = bank.weight_of("query")
    assert weight is not None
    lines = bank.write(bank.pack({"query": branch(weight, 2)}))
    marked = {name: int(layer.factors.used.sum()) for name, layer in bank.layers.items()}
    assert marked == {name: 2 if name == "query" else 0 for name in bank.layers}
    assert bank.layers["query"].factors.used[list(lines.numbers)].all()


def test_says_when_there_is_no_room(bank: Bank, net: nn.Module) -> None:
    written(bank, net, 30)
    with pytest.raises(AdapterSlotsFull) as caught:
        written(bank, net, 10)
    assert (caught.value.needed_lines, caught.value.num_lines) == (10, 39)
    assert bank.num_free == 9


def test_a_write_that_fails_half_way_takes_no_line(bank: Bank, net: nn.Module) -> None:
    packed = bank.pack(branches(net, 4))
    cut = replace(packed, values=packed.values[:, :-1])
    with pytest.raises(RuntimeError):
        bank.write(cut)
    assert bank.num_free == 39
    assert total(bank) == 0.0


def test_a_batch_without_sets_is_the_plain_path(bank: Bank) -> None:
    assert bank.select(uses(None, None)) is None


def test_an_index_is_as_wide_as_the_bucket(bank: Bank, net: nn.Module) -> None:
    lines = written(bank, net, 5)
    rows = bank.select(uses(None, lines))
    assert rows is not None
    assert rows.tensors.lines.tolist() == [[0] * 8, [*lines.numbers, 0, 0, 0]]


def test_rows_of_fixed_shapes_are_as_wide_as_any_and_always_have_gains(net: nn.Module) -> None:
    bank = inject(net, num_lines=40, fixed_shapes=True)
    rows = bank.select(uses(None, written(bank, net, 5)))
    assert rows is not None
    shapes = [None if t is None else tuple(t.shape) for t in rows.tensors]
    assert shapes == [(2, 512), (2, 512), (2,), None]
    assert [None if t is None else tuple(t.shape) for t in bank.no_rows(2)] == shapes


def test_layers_begin_at_columns_that_devices_read_at_once(bank: Bank) -> None:
    starts = [layer.columns.start for layer in bank.layers.values()]
    middles = [layer.factors.up.storage_offset() for layer in bank.layers.values()]
    assert all(column % 16 == 0 for column in (*starts, *middles))


def test_every_line_of_a_row_has_its_sets_scale(bank: Bank, net: nn.Module) -> None:
    first, second = written(bank, net, 5), written(bank, net, 2)
    rows = bank.select([(), ((first, 0.5), (second, 2.0))])
    assert rows is not None
    assert rows.tensors.scales.tolist() == [[0.0] * 8, [*[0.5] * 5, 2.0, 2.0, 0.0]]


def test_gain_lines_are_named_only_if_a_set_has_gains(bank: Bank, net: nn.Module) -> None:
    plain, scaled = written(bank, net, 3), written(bank, net, 3, out_gain=True)
    rows = [bank.select(uses(plain)), bank.select(uses(plain, scaled))]
    assert rows[0] is not None
    assert rows[1] is not None
    assert rows[0].tensors.out_gains is None
    assert rows[1].tensors.out_gains is not None
    assert rows[1].tensors.out_gains.tolist() == [0, scaled.gain_line]
    assert rows[1].tensors.in_gains is None


def test_rows_hold_only_within_their_context(bank: Bank, net: nn.Module) -> None:
    rows = bank.select(uses(written(bank, net, 3)))
    with bank.using(rows):
        assert bank.rows is rows
    assert bank.rows is None


def test_rows_are_put_away_when_a_forward_fails(bank: Bank, net: nn.Module) -> None:
    rows = bank.select(uses(written(bank, net, 3)))
    with pytest.raises(ValueError, match="failed"), bank.using(rows):
        raise ValueError("failed")
    assert bank.rows is None


def test_a_thousand_sets_leave_nothing_behind(net: nn.Module) -> None:
    bank = inject(net, num_lines=64)
    rng = random.Random(0)
    held: list[Lines] = []
    packed = [bank.pack(branches(net, rank, out_gain=rank > 5)) for rank in range(1, 9)]

    def churn(count: int) -> None:
        for _ in range(count):
            chosen = rng.choice(packed)
            while bank.num_free < chosen.num_lines:
                bank.free(held.pop(rng.randrange(len(held))))
            held.append(bank.write(chosen))

    churn(200)
    gc.collect()
    before = psutil.Process().memory_info().rss
    churn(800)
    gc.collect()
    assert psutil.Process().memory_info().rss <= 1.02 * before
    assert bank.num_free == 63 - sum(len(lines.numbers) for lines in held)
    while held:
        bank.free(held.pop())
    assert bank.num_free == 63
    assert total(bank) == 0.0


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 1e7), (torch.bfloat16, 1e39), (torch.float32, 1e39)]
)
def test_what_the_networks_dtype_cannot_hold_is_refused(dtype: torch.dtype, size: float) -> None:
    net = small_net().to(dtype)
    found = branches(net, 4)
    name = next(iter(found))
    found[name] = replace(found[name], up=found[name].up * size)
    with pytest.raises(AdapterInvalid, match=rf"adapter huggy: {name} is beyond .*{dtype}"):
        inject(net, num_lines=40).pack(found, source="huggy")

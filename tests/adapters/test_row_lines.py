"""Rows are gathered by the rank of their own set, and only where a set acts."""

import pytest
import torch
from torch import nn

from diptych.adapters.bank import Bank
from diptych.adapters.injection import inject
from diptych.adapters.row_lines import RANK_BUCKETS, Lines, RowLines, bucket_of
from support.small_net import branch, branches, small_net, uses


@pytest.fixture
def net() -> nn.Module:
    return small_net()


@pytest.fixture
def bank(net: nn.Module) -> Bank:
    return inject(net, num_lines=200)


def written(bank: Bank, net: nn.Module, rank: int, **gains: bool) -> Lines:
    return bank.write(bank.pack(branches(net, rank, **gains)))


def selected(bank: Bank, *rows: Lines | None) -> RowLines:
    found = bank.select(uses(*rows))
    assert found is not None
    return found


@pytest.mark.parametrize(("rank", "bucket"), [(1, 8), (8, 8), (9, 16), (128, 128), (129, 256)])
def test_a_rank_is_padded_to_the_next_bucket(rank: int, bucket: int) -> None:
    assert bucket_of(rank) == bucket


def test_ranks_beyond_the_last_bucket_are_padded_to_its_multiples() -> None:
    assert [bucket_of(rank) for rank in (512, 513, 1025)] == [512, 1024, 1536]


def test_buckets_are_those_the_kernel_is_launched_for() -> None:
    assert RANK_BUCKETS[:5] == (8, 16, 32, 64, 128)


def test_rows_of_one_bucket_are_multiplied_together(bank: Bank, net: nn.Module) -> None:
    small, wide, other = (written(bank, net, rank) for rank in (5, 20, 8))
    found = selected(bank, small, wide, other, None).at(bank.layers["query"])
    assert found is not None
    assert [group.down.shape[:2] for group in found.groups] == [(2, 8), (1, 32)]


def test_neighbouring_rows_are_selected_as_a_view(bank: Bank, net: nn.Module) -> None:
    lines = written(bank, net, 5)
    found = selected(bank, None, lines, lines, None).at(bank.layers["query"])
    assert found is not None
    assert found.groups[0].rows == slice(1, 3)


def test_all_rows_need_no_selection(bank: Bank, net: nn.Module) -> None:
    lines = written(bank, net, 5)
    found = selected(bank, lines, lines).at(bank.layers["query"])
    assert found is not None
    assert found.groups[0].rows is None


def test_a_layer_no_set_touches_adds_nothing(bank: Bank, net: nn.Module) -> None:
    weight = bank.weight_of("query")
    assert weight is not None
    lines = bank.write(bank.pack({"query": branch(weight, 4)}))
    assert selected(bank, lines).at(bank.layers["out"]) is None


def test_gains_are_gathered_only_where_there_are_some(bank: Bank, net: nn.Module) -> None:
    plain, scaled = written(bank, net, 4), written(bank, net, 4, out_gain=True)
    found = selected(bank, plain, scaled).at(bank.layers["query"])
    assert found is not None
    assert found.out_gains is not None
    assert not found.out_gains[0].any()
    assert found.in_gains is None


def test_the_same_batch_gathers_once(bank: Bank, net: nn.Module) -> None:
    rows = selected(bank, written(bank, net, 4))
    assert rows.at(bank.layers["query"]) is rows.at(bank.layers["query"])


def test_layers_that_sets_treat_unlike_are_planned_apart(bank: Bank, net: nn.Module) -> None:
    query, out = (bank.weight_of(name) for name in ("query", "out"))
    assert query is not None
    assert out is not None
    both = {"query": branch(query, 4), "out": branch(out, 12, out_gain=True)}
    rows = selected(bank, bank.write(bank.pack(both)))
    narrow, wide = (rows.at(bank.layers[name]) for name in ("query", "out"))
    assert narrow is not None
    assert wide is not None
    assert [found.groups[0].down.shape[1] for found in (narrow, wide)] == [8, 16]
    assert narrow.out_gains is None
    assert wide.out_gains is not None


def test_layers_that_sets_treat_alike_are_planned_once(bank: Bank, net: nn.Module) -> None:
    query, out = (bank.weight_of(name) for name in ("query", "out"))
    assert query is not None
    assert out is not None
    lines = bank.write(bank.pack({"query": branch(query, 12), "out": branch(out, 12)}))
    rows = selected(bank, None, lines, None, lines)
    one, other = (rows.at(bank.layers[name]) for name in ("query", "out"))
    assert one is not None
    assert other is not None
    assert one.groups[0].rows is other.groups[0].rows


def test_factors_too_large_to_remember_are_gathered_again(bank: Bank, net: nn.Module) -> None:
    lines = written(bank, net, 4)
    rows = RowLines(uses=(((lines, 1.0),),), tensors=selected(bank, lines).tensors, _room_bytes=100)
    assert rows.at(bank.layers["query"]) is not rows.at(bank.layers["query"])


def test_a_row_is_padded_with_zeros(bank: Bank, net: nn.Module) -> None:
    found = selected(bank, written(bank, net, 5)).at(bank.layers["conv"])
    assert found is not None
    assert not torch.count_nonzero(found.groups[0].down[:, 5:])


def test_sets_of_one_row_lie_side_by_side_each_at_its_scale(bank: Bank, net: nn.Module) -> None:
    first, second = written(bank, net, 5), written(bank, net, 6)
    rows = bank.select([((first, 0.5), (second, -2.0))])
    assert rows is not None
    found = rows.at(bank.layers["query"])
    assert found is not None
    up = bank.layers["query"].factors.up
    expected = torch.cat([0.5 * up[list(first.numbers)], -2.0 * up[list(second.numbers)]])
    assert torch.equal(found.groups[0].up[0, :11], expected)


def test_shapes_tell_batches_apart_as_a_compiler_does(bank: Bank, net: nn.Module) -> None:
    plain, dora = written(bank, net, 5), written(bank, net, 20, out_gain=True)
    shapes = [selected(bank, *rows).shape for rows in ([plain, None], [plain, dora])]
    assert shapes == [(2, 8, False, False), (2, 32, True, False)]

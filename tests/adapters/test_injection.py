"""A network with a bank looks as it did, and other sets never make a compiler start again."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from diptych.adapters.injection import inject, line_bytes
from diptych.adapters.row_lines import Lines
from diptych.kernels.low_rank import RowTensors
from support.small_net import SmallNet, branches, inputs, small_net, uses


@pytest.fixture
def net() -> SmallNet:
    return small_net()


def test_state_and_names_stay(net: SmallNet) -> None:
    before, names = net.state_dict(), [name for name, _ in net.named_modules()]
    inject(net, num_lines=8)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)
    assert [name for name, _ in net.named_modules()] == names


def test_layers_keep_their_identity_and_kind(net: SmallNet) -> None:
    query, conv = net.query, net.conv
    inject(net, num_lines=8)
    assert net.query is query
    assert net.conv is conv
    assert isinstance(query, nn.Linear)
    assert isinstance(conv, nn.Conv2d)


class _Doubled(nn.Linear):
    @override
    def forward(self, input: Tensor) -> Tensor:
        return 2.0 * super().forward(input)


def test_a_layer_of_a_class_of_its_own_keeps_its_forward() -> None:
    net = nn.Sequential(_Doubled(3, 4))
    x = torch.ones(2, 3)
    expected = net(x)
    inject(net, num_lines=8)
    assert torch.equal(net(x), expected)
    assert isinstance(net[0], _Doubled)


def test_only_targets_are_wrapped_if_there_are_some(net: SmallNet) -> None:
    assert list(inject(net, num_lines=8, targets={"query", "conv"}).layers) == ["conv", "query"]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
    ids=["grouped", "reflecting", "named padding"],
)
def test_convolutions_of_other_kinds_are_left_alone(conv: nn.Conv2d) -> None:
    bank = inject(nn.Sequential(conv, nn.Linear(4, 4)), num_lines=8)
    assert list(bank.layers) == ["1"]


def test_a_bank_takes_what_was_announced(net: SmallNet) -> None:
    announced = line_bytes(net)
    assert inject(net, num_lines=8).line_bytes == announced


class _Counting:
    """Compiles nothing, counts how often it was asked to, and tells which inputs stay in place."""

    def __init__(self) -> None:
        self.num_compiled = 0
        self.moving: list[tuple[int, ...]] = []

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        self.num_compiled += 1
        fixed = [hasattr(tensor, "_dynamo_static_input_type") for tensor in inputs]
        self.moving = [
            tuple(tensor.shape) for tensor, stays in zip(inputs, fixed, strict=True) if not stays
        ]
        forward: Callable[..., Any] = graph.forward
        return forward


class Compiled:
    """A network compiled with its bank, and two sets of like ranks and one without gains."""

    def __init__(self) -> None:
        self.net = small_net()
        self.bank = inject(self.net, num_lines=64, fixed_shapes=True)
        self.backend = _Counting()
        self._call = torch.compile(self._adapted, backend=self.backend, dynamic=False)

    def write(self, rank: int, *, seed: int = 0, **gains: bool) -> Lines:
        return self.bank.write(self.bank.pack(branches(self.net, rank, seed=seed, **gains)))

    def run(self, *rows: Lines | None) -> Tensor:
        selected = self.bank.select(uses(*rows))
        tensors = None if selected is None else selected.tensors
        with torch.no_grad():
            return self._call(*inputs(len(rows)), tensors)

    def eager(self, *rows: Lines | None) -> Tensor:
        with torch.no_grad(), self.bank.using(self.bank.select(uses(*rows))):
            found: Tensor = self.net(*inputs(len(rows)))
        return found

    def _adapted(self, x: Tensor, time: Tensor, rows: RowTensors | None) -> Tensor:
        with self.bank.using_tensors(rows):
            found: Tensor = self.net(x, time)
        return found


@pytest.fixture
def compiled() -> Iterator[Compiled]:
    torch.compiler.reset()
    yield Compiled()
    torch.compiler.reset()


def test_other_sets_are_not_compiled_again(compiled: Compiled) -> None:
    first, second = compiled.write(3), compiled.write(8, seed=1)
    compiled.run(first, None)
    compiled.bank.free(first)
    third = compiled.write(5, seed=2)
    for rows in ([second, third], [None, second], [third, third]):
        torch.testing.assert_close(compiled.run(*rows), compiled.eager(*rows))
    assert compiled.backend.num_compiled == 1


def test_one_graph_for_all_ranks_and_gains_and_one_without_sets(compiled: Compiled) -> None:
    small, wide = compiled.write(3), compiled.write(12)
    dora = compiled.write(3, seed=1, out_gain=True)
    for _ in range(2):
        for rows in ([small, None], [wide, small], [dora, wide], [None, None]):
            torch.testing.assert_close(compiled.run(*rows), compiled.eager(*rows))
    assert compiled.backend.num_compiled == 2


def test_a_recorded_graph_need_not_copy_the_bank(compiled: Compiled) -> None:
    compiled.run(compiled.write(3, out_gain=True), None)
    given = [tuple(tensor.shape) for tensor in inputs(2)]
    lines, scales, out_gains = (2, 512), (2, 512), (2,)
    assert sorted(compiled.backend.moving) == sorted([*given, lines, scales, out_gains])

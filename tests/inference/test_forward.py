"""Batches padded to the sizes that were recorded at start."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from typing_extensions import override

from diptych.adapters.injection import inject
from diptych.adapters.row_lines import Lines
from diptych.inference.conditions import Conditions
from diptych.inference.forward import Forward, batch_sizes
from diptych.inference.graphs import Predict
from diptych.kernels.low_rank import RowTensors
from diptych.models.text_memory import RowText
from support.small_net import branch


class FakeUnet:
    """Adds each row's timestep to it and maps its channels by one adapted layer."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.module = nn.Module()
        self.module.config = SimpleNamespace(in_channels=4)  # type: ignore[assignment]
        self.layer = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.layer.weight)
        self.layer.requires_grad_(requires_grad=False)
        self.module.layer = self.layer
        self.seen: list[int] = []

    def predict(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        assert all(len(rows) == len(x) for rows in conditions.values())
        self.seen.append(len(x))
        mapped: Tensor = self.layer(x.mT).mT
        return mapped + timestep.view(-1, 1, 1, 1)


class AttendingUnet(FakeUnet):
    """Attends to text by one adapted attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(query_dim=4, cross_attention_dim=3, heads=1, dim_head=4)
        self.module.attention = self.attention.requires_grad_(requires_grad=False)

    @override
    def predict(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        attended: Tensor = self.attention(tokens, encoder_hidden_states=conditions["hidden"])
        return attended.mT.view_as(x)


class FakeRecorder:
    """Records the same function, noting the batches and ranks it is called with."""

    def __init__(self) -> None:
        self.replayed: list[tuple[int, int]] = []

    def __call__(self, predict: Predict) -> Predict:
        def replay(
            x: Tensor, timestep: Tensor, rows: RowTensors | None, **conditions: Tensor
        ) -> Tensor:
            self.replayed.append((len(x), 0 if rows is None else rows.lines.shape[1]))
            return predict(x, timestep, rows, **conditions)

        return replay


class Rig:
    """A forward on a fake UNet with a real bank."""

    def __init__(self, recorder: FakeRecorder | None) -> None:
        self.unet, self.recorder = FakeUnet(), recorder
        self.bank = inject(self.unet.module, num_lines=128, fixed_shapes=recorder is not None)
        self.forward = Forward(
            self.unet,  # type: ignore[arg-type]
            self.bank,
            recorder=recorder,
            sizes=(1, 2, 4),
        )

    def write(self, rank: int, *, seed: int = 0, **gains: bool) -> Lines:
        own = branch(self.unet.layer.weight, rank, seed=seed, **gains)
        return self.bank.write(self.bank.pack({"layer": own}))

    def run(self, *rows: Lines | None) -> Tensor:
        x = torch.randn(len(rows), 4, 4, 2, generator=torch.Generator().manual_seed(1))
        adapters = [
            () if lines is None else ((lines, 1.0 if lines.gain_line else 0.5),) for lines in rows
        ]
        texts = [RowText() for _ in rows]
        return self.forward(x, torch.zeros(len(rows)), conditions(len(rows)), adapters, texts)


def conditions(num_rows: int, text_length: int = 7) -> Conditions:
    return Conditions(
        hidden=torch.zeros(num_rows, text_length, 3),
        pooled=torch.zeros(num_rows, 2),
        time_ids=torch.zeros(num_rows, 6),
    )


TEXTS = [RowText() for _ in range(5)]
"""For UNets that do not attend to any."""


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
def rig(recorder: FakeRecorder) -> Rig:
    made = Rig(recorder)
    made.forward.warm_up(4, 2, conditions(1))
    recorder.replayed.clear()
    return made


def test_sizes_are_powers_of_two_and_the_most() -> None:
    assert batch_sizes(24) == (1, 2, 4, 8, 16, 24)
    assert batch_sizes(32) == (1, 2, 4, 8, 16, 32)


def test_pads_to_the_next_size_and_cuts_back(rig: Rig, recorder: FakeRecorder) -> None:
    timestep = torch.tensor([1.0, 2.0, 3.0])
    output = rig.forward(torch.zeros(3, 4, 4, 2), timestep, conditions(3), [()] * 3, TEXTS[:3])
    assert recorder.replayed == [(4, 0)]
    assert output[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("num_rows", "edge", "text_length"), [(1, 3, 7), (1, 2, 14), (5, 2, 7)])
def test_shapes_that_are_not_warm_run_eagerly(
    rig: Rig, recorder: FakeRecorder, num_rows: int, edge: int, text_length: int
) -> None:
    rows = conditions(num_rows, text_length)
    x, timestep = torch.zeros(num_rows, 4, 4, edge), torch.zeros(num_rows)
    rig.forward(x, timestep, rows, [()] * num_rows, TEXTS[:num_rows])
    assert recorder.replayed == []


def test_warming_up_measures_every_size(rig: Rig) -> None:
    assert set(rig.forward.warm_up(4, 2, conditions(1))) == {1, 2, 4}


def test_without_a_recorder_nothing_is_padded() -> None:
    rig = Rig(None)
    rig.run(None, None, None)
    assert rig.unet.seen == [3]


@pytest.mark.parametrize("rank", [3, 40, 100])
def test_every_rank_is_replayed_by_one_graph(rig: Rig, recorder: FakeRecorder, rank: int) -> None:
    rig.run(rig.write(rank), None)
    assert recorder.replayed == [(2, 512)]


def test_gains_are_replayed_in_the_same_form(rig: Rig, recorder: FakeRecorder) -> None:
    rig.run(rig.write(4, out_gain=True), rig.write(9))
    assert recorder.replayed == [(2, 512)]


def test_gains_of_inputs_run_eagerly(rig: Rig, recorder: FakeRecorder) -> None:
    rig.run(rig.write(4, in_gain=True))
    assert recorder.replayed == []


def test_replayed_and_eager_rows_are_the_same(rig: Rig) -> None:
    eager = Rig(None)
    ranks = (3, 30, 20)
    replayed = rig.run(*(rig.write(rank, seed=rank, out_gain=rank == 20) for rank in ranks), None)
    expected = eager.run(
        *(eager.write(rank, seed=rank, out_gain=rank == 20) for rank in ranks), None
    )
    torch.testing.assert_close(replayed, expected, atol=1e-5, rtol=0)


def test_lines_that_change_hands_are_seen() -> None:
    rig = Rig(None)
    first = rig.write(4, seed=1)
    before = rig.run(first)
    rig.forward.forget_adapters()
    rig.bank.free(first)
    second = rig.write(4, seed=2)
    assert not torch.equal(rig.run(second), before)


class Attending:
    """A forward on an attention that remembers, and adapters of its values."""

    def __init__(self, recorder: FakeRecorder | None = None) -> None:
        self.unet = AttendingUnet()
        self.bank = inject(self.unet.module, num_lines=16, fixed_shapes=False)
        self.forward = Forward(
            self.unet,  # type: ignore[arg-type]
            self.bank,
            recorder=recorder,
            sizes=(1,),
        )
        weight = self.bank.weight_of("attention.to_v")
        assert weight is not None
        self.lines = self.bank.write(self.bank.pack({"attention.to_v": branch(weight, 2)}))
        self.projected: list[int] = []
        self.unet.attention.to_v.register_forward_hook(
            lambda _layer, inputs, _output: self.projected.append(len(inputs[0]))
        )

    def run(self, *rows: tuple[RowText, int, bool]) -> Tensor:
        """Attend, row by row, to the text of a seed, adapted or not."""
        hidden = [torch.randn(7, 3, generator=torch.Generator().manual_seed(s)) for _, s, _ in rows]
        told = replace(conditions(len(rows)), hidden=torch.stack(hidden))
        adapters = [((self.lines, 1.0),) if adapted else () for _, _, adapted in rows]
        texts = [text for text, _, _ in rows]
        return self.forward(
            torch.ones(len(rows), 4, 2, 2), torch.zeros(len(rows)), told, adapters, texts
        )


def test_only_texts_that_are_new_are_projected() -> None:
    rig, first, second = Attending(), (RowText(), 1, False), (RowText(), 2, True)
    rig.run(first)
    rig.run(second, first)
    rig.run(first, second)
    assert rig.projected == [1, 1]


def test_a_new_text_is_projected_with_its_own_adapters() -> None:
    rig, plain = Attending(), (RowText(), 1, False)
    before = rig.run(plain)
    both = rig.run(plain, (RowText(), 1, True))
    assert torch.equal(both[:1], before)
    assert torch.equal(both[1:], rig.run((RowText(), 1, True)))
    assert not torch.equal(both[1:], before)


def test_recorded_forwards_remember_no_text(recorder: FakeRecorder) -> None:
    rig, text = Attending(recorder), (RowText(), 1, False)
    rig.run(text)
    rig.run(text)
    assert rig.projected == [1, 1]

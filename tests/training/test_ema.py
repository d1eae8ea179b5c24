"""A moving average against its closed form, and the weights untouched by it."""

import numpy as np
import pytest
import torch
from torch import nn

from diptych.errors import CheckpointInvalid
from diptych.training.ema import Ema
from diptych.training.spec import EmaSpec

NUM = 30


def follow(spec: EmaSpec, steps: range) -> tuple[list[nn.Parameter], Ema]:
    """Return parameters that are step + i at step, and the average that followed them."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(3, 1))]
    ema = Ema(parameters, spec)
    walk(parameters, ema, steps)
    return parameters, ema


def walk(parameters: list[nn.Parameter], ema: Ema, steps: range) -> None:
    for step in steps:
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.fill_(float(step + i))
        ema.update(step)


def closed_form(decays: list[float], values: list[float], start: float) -> float:
    """Return start prod(d) + sum over k of (1 - d_k) v_k times the product of later decays."""
    d = np.array(decays)
    later = np.append(np.cumprod(d[::-1])[::-1][1:], 1.0)
    return float(start * d.prod() + ((1 - d) * np.array(values) * later).sum())


def test_average_is_the_closed_form() -> None:
    _, ema = follow(EmaSpec(decay=0.9, warmup=False), range(1, NUM + 1))
    values = [float(step) for step in range(1, NUM + 1)]
    expected = closed_form([0.9] * NUM, values, start=0.0)
    np.testing.assert_allclose(ema.state()["0"], expected, rtol=1e-6)


def test_warm_up_raises_the_decay_from_a_tenth() -> None:
    _, ema = follow(EmaSpec(decay=0.7), range(1, NUM + 1))
    decays = [min(0.7, (1 + n) / (10 + n)) for n in range(NUM)]
    assert (decays[0], decays[-1]) == (0.1, 0.7)
    values = [float(step + 1) for step in range(1, NUM + 1)]
    expected = closed_form(decays, values, start=1.0)
    np.testing.assert_allclose(ema.state()["1"], expected, rtol=1e-6)


def test_only_every_so_many_steps_count() -> None:
    _, ema = follow(EmaSpec(decay=0.9, warmup=False, every_steps=10), range(1, NUM + 1))
    expected = closed_form([0.9] * 3, [10.0, 20.0, 30.0], start=0.0)
    np.testing.assert_allclose(ema.state()["0"], expected, rtol=1e-6)
    assert ema.state()["num_updates"] == 3


def test_begins_as_the_parameters() -> None:
    _, ema = follow(EmaSpec(), range(0))
    assert ema.state()["1"].tolist() == [[1.0]] * 3


def test_averages_stand_in_for_the_parameters_and_both_come_back_exactly() -> None:
    parameters, ema = follow(EmaSpec(decay=0.9), range(1, 8))
    averages = {name: tensor.clone() for name, tensor in ema.state().items()}
    with ema.swapped():
        assert torch.equal(parameters[0].detach(), averages["0"])
    assert parameters[0].tolist() == [7.0, 7.0]
    assert all(torch.equal(ema.state()[name], averages[name]) for name in averages)


def test_both_come_back_when_what_was_done_with_the_averages_fails() -> None:
    parameters, ema = follow(EmaSpec(decay=0.9), range(1, 8))
    with pytest.raises(ZeroDivisionError), ema.swapped():
        _ = 1 / 0
    assert parameters[0].tolist() == [7.0, 7.0]


def test_goes_on_exactly_from_its_state() -> None:
    spec = EmaSpec(decay=0.95, every_steps=2)
    _, whole = follow(spec, range(1, 21))
    parameters, first = follow(spec, range(1, 9))
    second = Ema(parameters, spec)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    walk(parameters, second, range(9, 21))
    assert all(torch.equal(second.state()[name], one) for name, one in whole.state().items())


def test_loading_takes_copies() -> None:
    spec = EmaSpec(decay=0.5, warmup=False)
    parameters, ema = follow(spec, range(1, 4))
    state = {name: tensor.clone() for name, tensor in ema.state().items()}
    before = state["0"].clone()
    ema.load_state(state)
    walk(parameters, ema, range(4, 6))
    assert torch.equal(state["0"], before)


@pytest.mark.parametrize(
    "change", [{"0": torch.zeros(5)}, {"2": torch.zeros(2)}, {"num_updates": torch.zeros(2)}]
)
def test_refuses_the_averages_of_other_parameters(change: dict[str, torch.Tensor]) -> None:
    _, ema = follow(EmaSpec(), range(1, 3))
    with pytest.raises(CheckpointInvalid, match="moving average"):
        ema.load_state(ema.state() | change)

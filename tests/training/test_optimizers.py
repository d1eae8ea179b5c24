"""Each optimizer is its library's own with the options asked for, and decays weights alike."""

from dataclasses import replace
from typing import Any

import optimi
import prodigyopt
import pytest
import schedulefree
import torch
import transformers
from bitsandbytes.optim.adamw import AdamW8bit
from torch import Tensor, nn
from torch.optim import Optimizer

from diptych.errors import InvalidRequest
from diptych.training.optimizers import averaged_weights, make_optimizer
from diptych.training.spec import LrScheduleSpec, OptimizerName, OptimizerSpec, ProdigySpec
from diptych.training.trainables.trainable import ParameterGroup

NAMES: tuple[OptimizerName, ...] = (
    "adamw",
    "adamw_8bit",
    "adafactor",
    "lion",
    "prodigy",
    "schedule_free_adamw",
    "stable_adamw",
)
BETAS = (0.8, 0.95)
PRODIGY = ProdigySpec(
    beta3=0.9,
    decouple=False,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-4,
    d_coef=2.0,
    growth_rate=1.5,
)


def parameters() -> list[nn.Parameter]:
    """Return a matrix that 8-bit states are made for, and a small vector."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(80, 64), (10,)]]


def group(made: list[nn.Parameter], **options: Any) -> ParameterGroup:
    return ParameterGroup(name="unet", parameters=made, **options)


def train(optimizer: Optimizer, trained: list[nn.Parameter], num_steps: int = 5) -> list[Tensor]:
    """Follow seeded gradients and return the weights."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        for parameter in trained:
            parameter.grad = torch.randn(parameter.shape, generator=generator) + parameter.detach()
        optimizer.step()
    return [parameter.detach().clone() for parameter in trained]


def descend(optimizer: Optimizer, trained: list[nn.Parameter], num_steps: int) -> None:
    """Follow the gradient of the sum of squares."""
    for _ in range(num_steps):
        for parameter in trained:
            parameter.grad = 2 * parameter.detach()
        optimizer.step()


def reference(name: OptimizerName, trained: list[nn.Parameter]) -> Any:
    """Make a library's optimizer by hand, as the specs in ``SPECS`` say."""
    adam: dict[str, Any] = {"lr": 1e-2, "betas": BETAS, "eps": 1e-6, "weight_decay": 0.1}
    prodigy = {
        "beta3": 0.9,
        "decouple": False,
        "use_bias_correction": False,
        "safeguard_warmup": False,
        "d0": 1e-4,
        "d_coef": 2.0,
        "growth_rate": 1.5,
    }
    if name == "adamw":
        return torch.optim.AdamW(trained, **adam, fused=True)
    if name == "adamw_8bit":
        return AdamW8bit(trained, **adam)  # type: ignore[no-untyped-call]
    if name == "adafactor":
        return transformers.Adafactor(  # type: ignore[no-untyped-call]
            trained, lr=1e-2, weight_decay=0.1, scale_parameter=False, relative_step=False
        )
    if name == "lion":
        return optimi.Lion(trained, lr=1e-2, betas=BETAS, weight_decay=0.1, triton=False)
    if name == "prodigy":
        return prodigyopt.Prodigy(trained, **(adam | {"lr": 1.0}), **prodigy)
    if name == "stable_adamw":
        return optimi.StableAdamW(trained, **adam, triton=False)
    made = schedulefree.AdamWScheduleFree(trained, **adam, warmup_steps=3)
    made.train()
    return made


SPECS = {
    name: OptimizerSpec(
        name=name,
        learning_rate=1.0 if name == "prodigy" else 1e-2,
        betas=None if name == "adafactor" else BETAS,
        eps=None if name in ("adafactor", "lion") else 1e-6,
        weight_decay=0.1,
        prodigy=PRODIGY if name == "prodigy" else None,
    )
    for name in NAMES
}
WARM = LrScheduleSpec(name="constant_with_warmup", num_warmup_steps=3)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_the_library_with_the_same_options(name: OptimizerName) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = make_optimizer(SPECS[name], [group(ours)], lr_schedule=WARM)
    expected = train(reference(name, theirs), theirs)
    for found, wanted in zip(train(optimizer, ours), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "option",
    [
        {"beta3": 0.5},
        {"decouple": False},
        {"use_bias_correction": False},
        {"safeguard_warmup": False},
        {"d0": 1e-3},
        {"d_coef": 0.5},
        {"growth_rate": 1.01},
    ],
    ids=lambda option: next(iter(option)),
)
def test_every_option_of_prodigy_has_an_effect(option: dict[str, Any]) -> None:
    plain = OptimizerSpec(
        name="prodigy", learning_rate=1.0, weight_decay=0.01, prodigy=ProdigySpec(d0=1e-2)
    )
    changed = replace(plain, prodigy=replace(ProdigySpec(d0=1e-2), **option))
    before, after = parameters(), parameters()
    descend(make_optimizer(plain, [group(before)]), before, 40)
    descend(make_optimizer(changed, [group(after)]), after, 40)
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prodigy"])
def test_weights_without_gradient_decay_by_learning_rate_times_decay(name: OptimizerName) -> None:
    made = parameters()
    spec = OptimizerSpec(name=name, learning_rate=0.01, weight_decay=0.5)
    optimizer = make_optimizer(spec, [group(made)])
    for parameter in made:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with averaged_weights(optimizer):
        torch.testing.assert_close(made, [0.995 * one for one in parameters()])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prodigy"])
def test_groups_have_their_own_learning_rate_and_decay(name: OptimizerName) -> None:
    first, second = parameters(), parameters()
    groups = [
        ParameterGroup(name="unet", parameters=first),
        ParameterGroup(
            name="text_encoder", parameters=second, learning_rate=0.02, weight_decay=0.25
        ),
    ]
    optimizer = make_optimizer(
        OptimizerSpec(name=name, learning_rate=0.01, weight_decay=0.5), groups
    )
    told = [(one["name"], one["lr"], one["weight_decay"]) for one in optimizer.param_groups]
    assert told == [("unet", 0.01, 0.5), ("text_encoder", 0.02, 0.25)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_said_is_the_librarys_default(name: OptimizerName) -> None:
    made = make_optimizer(OptimizerSpec(name=name), [group(parameters())])
    decays = {"adamw": 0.01, "adamw_8bit": 0.01, "stable_adamw": 0.01}
    assert made.param_groups[0]["weight_decay"] == decays.get(name, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_brings_a_quadratic_down(name: OptimizerName) -> None:
    made = parameters()
    rate = 1.0 if name == "prodigy" else 3e-2
    optimizer = make_optimizer(OptimizerSpec(name=name, learning_rate=rate), [group(made)])
    before = sum(one.square().sum().item() for one in made)
    descend(optimizer, made, 150 if name == "prodigy" else 30)
    with averaged_weights(optimizer):
        assert sum(one.square().sum().item() for one in made) < 0.9 * before


def test_adafactor_moves_weights_that_begin_at_zero_as_fast_as_others() -> None:
    """A low-rank update's B: scaled by its own size it would hardly ever leave zero."""
    zeros = nn.Parameter(torch.zeros(8, 8))
    spec = OptimizerSpec(name="adafactor", learning_rate=0.01)
    optimizer = make_optimizer(spec, [group([zeros])])
    zeros.grad = torch.ones(8, 8)
    optimizer.step()
    torch.testing.assert_close(zeros.detach(), torch.full((8, 8), -0.01))


def test_prodigy_with_unlike_learning_rates_is_refused_before_it_raises() -> None:
    groups = [
        group(parameters()),
        ParameterGroup(name="text_encoder", parameters=parameters(), learning_rate=5e-6),
    ]
    with pytest.raises(InvalidRequest, match="text_encoder"):
        make_optimizer(OptimizerSpec(name="prodigy"), groups)


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"optimizer\.eps"):
        make_optimizer(OptimizerSpec(name="lion", eps=1e-8), [group(parameters())])


def test_averaged_weights_are_the_librarys_and_training_goes_on_from_the_same_bits() -> None:
    ours, theirs = parameters(), parameters()
    spec = OptimizerSpec(name="schedule_free_adamw", learning_rate=1e-2)
    optimizer = make_optimizer(spec, [group(ours)])
    other = schedulefree.AdamWScheduleFree(theirs, lr=1e-2)
    other.train()
    trained = train(optimizer, ours, 7)
    train(other, theirs, 7)
    other.eval()
    with averaged_weights(optimizer):
        assert torch.equal(ours[0], theirs[0])
        assert not torch.equal(ours[0], trained[0])
    assert torch.equal(ours[0], trained[0])
    assert optimizer.param_groups[0]["train_mode"]


def test_other_optimizers_have_no_average() -> None:
    made = parameters()
    optimizer = make_optimizer(OptimizerSpec(), [group(made)])
    trained = train(optimizer, made)
    with averaged_weights(optimizer):
        assert torch.equal(made[0], trained[0])

"""Coefficients begin as a plain concatenation, learn, and pack into an ordinary update."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, MadeFor, Target
from diptych.adapters.merge.merging import merge
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.merge.zipping import (
    Columns,
    ZipSpec,
    check_zip,
    columns_of,
    overlap_of,
    train,
)
from diptych.errors import EngineFault, InvalidRequest
from support.updates import FIRST, KERNEL, SECOND, adapter_of, added

CPU = torch.device("cpu")
WEIGHTS = (0.8, -0.5)
SOURCES = (adapter_of(1, FIRST, KERNEL, rank=3), adapter_of(2, FIRST, KERNEL, SECOND, rank=5))
SPEC = ZipSpec(prompts=("a", "b"))


def columns() -> dict[Target, Columns]:
    return columns_of([adapter.targets for adapter in SOURCES], WEIGHTS, CPU)


def go_on(done: int, total: int) -> None:
    """Do nothing."""


def test_before_training_it_is_cat_to_the_bit() -> None:
    cat = merge(SOURCES, MergeSpec(method="cat", weights=WEIGHTS)).adapter.targets
    for target, one in columns().items():
        packed = one.packed()
        assert torch.equal(packed.up, cat[target].up)
        assert torch.equal(packed.down, cat[target].down)
        assert packed.alpha == cat[target].alpha


@pytest.mark.parametrize("target", [FIRST, KERNEL])
def test_a_coefficient_weighs_one_input_of_one_source(target: Target) -> None:
    one = columns()[target]
    with torch.no_grad():
        one.learned[1, 2] = 3.0
    merged = added(Adapter(targets={target: one.packed()}), target)
    first, second = (w * added(s, target) for w, s in zip(WEIGHTS, SOURCES, strict=True))
    second[:, 2] *= 3
    assert torch.allclose(merged, first + second, atol=1e-5)


def test_what_is_trained_is_what_is_packed() -> None:
    one = columns()[KERNEL]
    with torch.no_grad():
        one.learned.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    packed = one.packed()
    shown = torch.einsum("or,rikl->oikl", one.ups, one.merged_down())
    expected = added(Adapter(targets={KERNEL: packed}), KERNEL)
    assert torch.allclose(shown.detach().double(), expected, atol=1e-5)


def test_a_source_is_seen_at_its_weight() -> None:
    found = columns()[FIRST].of_source(1)
    assert found is not None
    assert torch.allclose((found[0] @ found[1]).double(), -0.5 * added(SOURCES[1], FIRST))


def test_a_source_without_the_target_is_not_seen() -> None:
    assert columns()[SECOND].of_source(0) is None


def test_overlap_is_the_mean_product_of_coefficients() -> None:
    assert float(overlap_of(list(columns().values())).detach()) == pytest.approx(0.4)


def test_sources_that_share_no_target_do_not_overlap() -> None:
    apart = columns_of([adapter_of(1, FIRST).targets, adapter_of(2, SECOND).targets], (1, 1), CPU)
    assert float(overlap_of(list(apart.values())).detach()) == 0


def test_training_lowers_the_loss_and_tells_how_far_it_is() -> None:
    own, seen = columns()[FIRST], []
    goal = torch.linspace(-1, 1, 16)

    def loss_at(step: int) -> Tensor:
        return (own.coefficients[0] - goal).square().sum()

    before = float(loss_at(0).detach())
    spec = ZipSpec(prompts=(), num_steps=30, learning_rate=0.1, overlap=0.0)
    train([own], loss_at, spec, lambda done, total: seen.append((done, total)))
    assert float(loss_at(0).detach()) < before / 5
    assert seen == [(step, 30) for step in range(1, 31)]


def test_overlap_alone_drives_sources_apart() -> None:
    own = columns()[FIRST]
    spec = ZipSpec(prompts=(), num_steps=50, overlap=1.0)
    train([own], lambda step: own.learned.sum() * 0, spec, go_on)
    assert float(overlap_of([own]).detach()) < 0.2


def test_what_progress_raises_ends_the_training() -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    steps: list[int] = []

    def loss_at(step: int) -> Tensor:
        steps.append(step)
        return own.learned.sum()

    own = columns()[FIRST]
    with pytest.raises(KeyboardInterrupt):
        train([own], loss_at, SPEC, stop)
    assert steps == [0, 1, 2]


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    own = columns()[FIRST]
    with pytest.raises(EngineFault, match="nan at step 0"):
        train([own], lambda step: own.learned.sum() * float("nan"), SPEC, go_on)


def test_the_largest_rank_is_refused_unless_it_is_cut() -> None:
    sources = [adapter_of(1, FIRST, rank=100), adapter_of(2, FIRST, rank=29)]
    check_zip(sources, ZipSpec(prompts=("a", "b"), rank=8))
    with pytest.raises(InvalidRequest, match=r"blocks.0.to_q of rank 129, over the limit of 128"):
        check_zip(sources, SPEC)


def test_a_dora_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"adapters\[1\]: is a DoRA"):
        check_zip([adapter_of(1), adapter_of(2, side="out")], SPEC)


def test_an_adapter_without_a_unet_is_refused() -> None:
    text = Target(component=Component.TEXT_ENCODER, module="x")
    alone = Adapter(targets={text: adapter_of(1).targets[FIRST]})
    with pytest.raises(InvalidRequest, match=r"adapters\[0\]: changes no UNet"):
        check_zip([alone, adapter_of(2)], SPEC)


def test_adapters_of_unlike_families_are_refused() -> None:
    sources = [adapter_of(1, made_for=MadeFor(family=name)) for name in ("nano", "sdxl-base")]
    with pytest.raises(InvalidRequest, match="its family is sdxl-base"):
        check_zip(sources, SPEC)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prompts": ("a",)}, "prompts"),
        ({"weights": (1.0,)}, "weights"),
        ({"weights": (1.0, 0.0)}, "weights[1]"),
        ({"weights": (float("inf"), 1.0)}, "weights[0]"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 1001}, "num_steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"overlap": -1.0}, "overlap"),
        ({"overlap": float("nan")}, "overlap"),
        ({"seed": -1}, "seed"),
        ({"rank": 129}, "rank"),
        ({"energy": 0.0}, "energy"),
        ({"energy": 0.5, "rank": 3}, "energy"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], field: str) -> None:
    spec = ZipSpec(**({"prompts": ("a", "b")} | changed))
    with pytest.raises(InvalidRequest) as refused:
        check_zip(SOURCES, spec)
    assert field in [violation.field for violation in refused.value.violations]


def test_one_adapter_cannot_be_zipped() -> None:
    with pytest.raises(InvalidRequest, match="1 adapters, expected 2 to 32"):
        check_zip(SOURCES[:1], ZipSpec(prompts=("a",)))

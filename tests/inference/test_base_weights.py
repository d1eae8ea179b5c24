"""Adapters are held against the weights that are really there."""

import pytest
import torch
from torch import nn

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.errors import AdapterMismatch, InvalidRequest
from diptych.inference.base_weights import BaseWeights, check_shapes, weight_of, weights_of
from diptych.inference.trajectory import Expert
from support.made_adapters import noise


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(4, width)
        self.encoder = nn.ModuleDict({"fc1": nn.Linear(width, width)})


def base_of(expert: Expert, width: int, *encoders: str) -> BaseWeights:
    unet = nn.ModuleDict({"to_q": nn.Linear(width, width), "proj_in": nn.Conv2d(width, width, 1)})
    return weights_of(expert, unet, {name: Encoder(width) for name in encoders})


BASE = base_of(Expert.BASE, 8, "text_encoder", "text_encoder_2")
REFINER = base_of(Expert.REFINER, 6, "text_encoder_2")


def adapter_of(
    *targets: tuple[Component, str, int], stage: Stage = Stage.BASE, token_width: int = 0
) -> Adapter:
    tokens = {}
    if token_width:
        tokens["<s0>"] = LearnedToken(vectors={Component.TEXT_ENCODER_2: noise(1, token_width)})
    return Adapter(
        targets={
            Target(component=component, module=module): LowRank(
                down=noise(2, width), up=noise(width, 2), alpha=2.0
            )
            for component, module, width in targets
        },
        tokens=tokens,
        made_for=MadeFor(stage=stage),
    )


def test_names_of_encoders_are_the_same_for_both_classes() -> None:
    assert list(BASE.weights[Component.TEXT_ENCODER]) == ["text_model.encoder.fc1"]


def test_adapter_of_the_right_shapes_fits() -> None:
    adapter = adapter_of(
        (Component.UNET, "to_q", 8),
        (Component.TEXT_ENCODER, "text_model.encoder.fc1", 8),
        token_width=8,
    )
    check_shapes(adapter, BASE, name="huggy")


def test_linear_update_of_a_convolution_of_one_pixel_fits() -> None:
    check_shapes(adapter_of((Component.UNET, "proj_in", 8)), BASE, name="huggy")


@pytest.mark.parametrize(
    ("adapter", "used_on"),
    [
        (adapter_of((Component.UNET, "to_q", 6)), r"of shape \[8, 8\]"),
        (adapter_of((Component.UNET, "to_magic", 8)), "has no such weight"),
        (adapter_of(token_width=6), "of width 8"),
    ],
)
def test_misfit_names_what_is_there(adapter: Adapter, used_on: str) -> None:
    with pytest.raises(AdapterMismatch, match=used_on):
        check_shapes(adapter, BASE, name="huggy")


def test_encoder_that_a_refiner_lacks_is_a_misfit() -> None:
    adapter = adapter_of((Component.TEXT_ENCODER, "text_model.encoder.fc1", 6), stage=Stage.REFINER)
    with pytest.raises(AdapterMismatch):
        check_shapes(adapter, REFINER, name="huggy")


def test_adapter_of_both_may_change_an_encoder_that_one_lacks() -> None:
    adapter = adapter_of((Component.TEXT_ENCODER, "text_model.encoder.fc1", 8), stage=Stage.BOTH)
    check_shapes(adapter, REFINER, name="huggy")


def test_refiner_takes_its_own_factors_where_there_are_any() -> None:
    adapter = adapter_of(
        (Component.UNET, "to_q", 8), (Component.REFINER_UNET, "to_q", 6), stage=Stage.BOTH
    )
    check_shapes(adapter, REFINER, name="huggy")


def test_weight_of_a_merged_target_is_the_hosted_one() -> None:
    target = Target(component=Component.REFINER_UNET, module="to_q")
    weight = weight_of(target, {Expert.BASE: BASE, Expert.REFINER: REFINER}, Stage.BOTH)
    assert torch.equal(weight, REFINER.weights[Component.UNET]["to_q"])


def test_weight_that_is_not_hosted_is_named() -> None:
    target = Target(component=Component.UNET, module="to_q")
    with pytest.raises(InvalidRequest, match=r"unet\.to_q"):
        weight_of(target, {}, Stage.BASE)

"""An adapter's values say what they are."""

import torch

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    Target,
)

UPDATE = LowRank(down=torch.zeros(4, 6), up=torch.zeros(8, 4), alpha=2.0)
TARGET = Target(component=Component.UNET, module="conv_in")


def test_scale_is_alpha_over_rank() -> None:
    assert UPDATE.scale == 0.5


def test_a_linear_update_has_its_weights_shape() -> None:
    assert UPDATE.weight_shape == (8, 6)


def test_a_convolutions_update_has_its_weights_shape() -> None:
    update = LowRank(down=torch.zeros(4, 6, 3, 3), up=torch.zeros(8, 4), alpha=4.0)
    assert update.weight_shape == (8, 6, 3, 3)


def test_components_are_those_of_targets_and_of_tokens() -> None:
    token = LearnedToken(vectors={Component.TEXT_ENCODER_2: torch.zeros(2, 5)})
    adapter = Adapter(targets={TARGET: UPDATE}, tokens={"<s0>": token})
    assert adapter.components() == {Component.UNET, Component.TEXT_ENCODER_2}


def test_a_token_takes_a_place_per_vector() -> None:
    assert LearnedToken(vectors={Component.TEXT_ENCODER: torch.zeros(3, 5)}).num_vectors == 3


def test_an_adapter_of_tokens_alone_has_no_rank() -> None:
    assert Adapter().max_rank == 0

"""A card says what an adapter holds."""

import pytest
import torch

from diptych.adapters.adapter import Adapter, LearnedToken, LowRank, MadeFor, Magnitude, Target
from diptych.adapters.card import AdapterCard, Kind
from diptych.adapters.naming import Component, Stage
from diptych.adapters.summary import summarise
from diptych.digest import Digest
from support.shelves import NOON

LINEAR = LowRank(down=torch.zeros(4, 6), up=torch.zeros(8, 4), alpha=2.0)
CONV = LowRank(down=torch.zeros(16, 6, 3, 3), up=torch.zeros(8, 16), alpha=2.0)
DORA = LowRank(
    down=torch.zeros(4, 6),
    up=torch.zeros(8, 4),
    alpha=2.0,
    magnitude=Magnitude(norms=torch.ones(8), per_input=False),
)
TOKEN = LearnedToken(vectors={Component.TEXT_ENCODER: torch.zeros(2, 5)})


def card(adapter: Adapter) -> AdapterCard:
    digest = Digest.of_bytes(b"bundle")
    return summarise(adapter, digest=digest, size_bytes=6, source="upload", created_at=NOON)


def target(component: Component, module: str = "conv_in") -> Target:
    return Target(component=component, module=module)


@pytest.mark.parametrize(
    ("component", "update", "kinds"),
    [
        (Component.UNET, LINEAR, {Kind.LORA}),
        (Component.REFINER_UNET, CONV, {Kind.CONV}),
        (Component.UNET, DORA, {Kind.LORA, Kind.DORA}),
        (Component.TEXT_ENCODER_2, LINEAR, {Kind.TEXT_ENCODER}),
        (Component.TEXT_ENCODER, DORA, {Kind.TEXT_ENCODER, Kind.DORA}),
    ],
)
def test_a_target_says_its_kind(component: Component, update: LowRank, kinds: set[Kind]) -> None:
    assert card(Adapter(targets={target(component): update})).kinds == kinds


def test_tokens_are_a_kind_and_are_counted() -> None:
    found = card(Adapter(tokens={"<s0>": TOKEN}))
    assert found.kinds == {Kind.TOKENS}
    assert found.tokens == {"<s0>": 2}


def test_says_the_largest_rank_and_how_many_targets() -> None:
    found = card(
        Adapter(targets={target(Component.UNET): LINEAR, target(Component.UNET, "x"): CONV})
    )
    assert (found.max_rank, found.num_targets) == (16, 2)


def test_says_what_it_was_made_for() -> None:
    made_for = MadeFor(family="nano", stage=Stage.REFINER, zero_snr=True, timestep_range=(0, 9))
    found = card(Adapter(made_for=made_for, trigger_words=("hug",)))
    assert (found.family, found.stage, found.zero_snr) == ("nano", Stage.REFINER, True)
    assert (found.timestep_range, found.trigger_words) == ((0, 9), ("hug",))


def test_an_adapter_of_nothing_has_no_kind() -> None:
    assert card(Adapter()).kinds == frozenset()

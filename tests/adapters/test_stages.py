"""An adapter with a refiner's own factors is one for each expert, and the two are it again."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.adapters.bundle import digest_of
from diptych.adapters.stages import has_refiner_factors, join_stages, split_stages
from diptych.errors import AdapterInvalid
from support.made_adapters import adapters, noise

PROJECTION = "mid_block.attentions.0.proj_in"
LAYER = "text_model.encoder.layers.0.self_attn.q_proj"
BOTH = MadeFor(family="sdxl-base", base_fingerprint="abc", stage=Stage.BOTH)
refuse = partial(AdapterInvalid, "two")


def update(seed: int) -> LowRank:
    return LowRank(down=noise(2, 3, seed=seed), up=noise(4, 2, seed=seed + 1), alpha=1.0)


def adapter(refiner_module: str = PROJECTION) -> Adapter:
    """Return one of both UNets, both encoders and a token."""
    places = {
        Component.UNET: PROJECTION,
        Component.REFINER_UNET: refiner_module,
        Component.TEXT_ENCODER: LAYER,
        Component.TEXT_ENCODER_2: LAYER,
    }
    vectors = {part: noise(1, 8) for part in (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)}
    return Adapter(
        targets={
            Target(component=part, module=module): update(seed)
            for seed, (part, module) in enumerate(places.items())
        },
        tokens={"<s0>": LearnedToken(vectors=vectors)},
        made_for=BOTH,
        trigger_words=("huggy",),
    )


def parts(whole: Adapter) -> tuple[Adapter, Adapter]:
    found = split_stages(whole)
    assert found is not None
    return found


@settings(deadline=None)
@given(adapters())
def test_the_parts_are_the_whole_again(whole: Adapter) -> None:
    whole = replace(whole, made_for=replace(whole.made_for, stage=Stage.BOTH))
    found = split_stages(whole)
    if found is not None:
        assert not any(map(has_refiner_factors, found))
        assert digest_of(join_stages(*found, refuse)) == digest_of(whole)


def test_each_part_is_for_one_unet_and_its_encoders() -> None:
    whole = adapter()
    base, refiner = parts(whole)
    assert base.made_for == replace(BOTH, stage=Stage.BASE)
    assert refiner.made_for == MadeFor(family="sdxl-base", stage=Stage.REFINER)
    assert base.components() == refiner.components() == whole.components() - {"refiner_unet"}
    target = Target(component=Component.UNET, module=PROJECTION)
    own = whole.targets[replace(target, component=Component.REFINER_UNET)]
    assert refiner.targets[target] is own


def test_the_refiner_of_sdxl_is_told_nothing_of_an_encoder_it_has_not() -> None:
    _, refiner = parts(adapter("down_blocks.3.resnets.0.conv1"))
    assert refiner.made_for.family == "sdxl-refiner"
    assert refiner.components() == {Component.UNET, Component.TEXT_ENCODER_2}


@pytest.mark.parametrize(
    "whole",
    [
        replace(adapter(), made_for=MadeFor(stage=Stage.REFINER)),
        Adapter(
            targets={Target(component=Component.REFINER_UNET, module=PROJECTION): update(0)},
            made_for=BOTH,
        ),
    ],
    ids=["of one stage", "nothing for the base"],
)
def test_what_two_adapters_do_not_say_has_no_parts(whole: Adapter) -> None:
    assert split_stages(whole) is None


def test_refuses_two_that_were_never_one() -> None:
    base, refiner = parts(adapter())
    layer = Target(component=Component.TEXT_ENCODER, module=LAYER)
    token = LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 8, seed=9)})
    broken = {
        "an adapter for base in its folder refiner": base,
        f"another text_encoder.{LAYER} for": replace(
            refiner, targets={**refiner.targets, layer: update(9)}
        ),
        "another token '<s0>' for": replace(refiner, tokens={"<s0>": token}),
    }
    for problem, own in broken.items():
        with pytest.raises(AdapterInvalid, match=problem):
            join_stages(base, own, refuse)

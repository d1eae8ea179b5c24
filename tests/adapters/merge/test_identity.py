"""A merge is made for what all its inputs were made for, and loses no token and no word."""

from dataclasses import replace
from types import MappingProxyType

import pytest
import torch

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.adapters.merge.identity import (
    MERGE_KEY,
    family_violations,
    merge_metadata,
    merge_purposes,
    merge_tokens,
    merge_words,
    on_experts,
)
from diptych.adapters.merge.report import RenamedToken
from diptych.adapters.merge.spec import MergeSpec
from support.made_adapters import noise
from support.updates import FIRST, SECOND, adapter_of, update

REFINER_FIRST = replace(FIRST, component=Component.REFINER_UNET)
OF_TEXT = Target(component=Component.TEXT_ENCODER_2, module="layers.0.q_proj")


def made(made_for: MadeFor, *targets: Target) -> Adapter:
    return Adapter(
        targets={target: update(FIRST, index) for index, target in enumerate(targets)},
        made_for=made_for,
    )


def staged(stage: Stage, *targets: Target) -> Adapter:
    return made(MadeFor(stage=stage), *targets)


def token(seed: int) -> LearnedToken:
    return LearnedToken(vectors={Component.TEXT_ENCODER: noise(2, 8, seed=seed)})


def with_tokens(**seeds: int) -> Adapter:
    return Adapter(tokens={f"<{name}>": token(seed) for name, seed in seeds.items()})


def test_unlike_families_are_refused_by_name() -> None:
    adapters = [
        adapter_of(1, made_for=MadeFor(family="sdxl-base")),
        adapter_of(2),
        adapter_of(3, made_for=MadeFor(family="ssd-1b")),
    ]
    assert list(family_violations(adapters)) == [
        ("adapters[2]", "its family is ssd-1b, that of adapters[0] sdxl-base")
    ]


def test_unlike_prediction_types_are_refused() -> None:
    types = ("epsilon", "v_prediction")
    adapters = [adapter_of(1, made_for=MadeFor(prediction_type=name)) for name in types]
    assert [field for field, _ in family_violations(adapters)] == ["adapters[1]"]


def test_unlike_shapes_are_refused_with_both() -> None:
    adapters = [staged(Stage.BASE, FIRST), Adapter(targets={FIRST: update(SECOND, 1)})]
    assert list(family_violations(adapters)) == [
        ("adapters[1]", "unet.blocks.0.to_q is [12, 20], in adapters[0] [24, 16]")
    ]


def test_unlike_stages_with_text_encoders_are_refused() -> None:
    adapters = [staged(Stage.BASE, FIRST, OF_TEXT), staged(Stage.REFINER, FIRST)]
    assert [field for field, _ in family_violations(adapters)] == ["adapters[0]"]


def test_experts_of_other_shapes_do_not_meet() -> None:
    refiner = Adapter(targets={FIRST: update(SECOND, 1)}, made_for=MadeFor(stage=Stage.REFINER))
    assert list(family_violations([staged(Stage.BASE, FIRST), refiner])) == []


def test_targets_of_one_stage_stay_where_they_are() -> None:
    stage, targets = on_experts([staged(Stage.REFINER, FIRST), staged(Stage.REFINER, SECOND)])
    assert (stage, [set(of) for of in targets]) == (Stage.REFINER, [{FIRST}, {SECOND}])


def test_a_base_and_a_refiner_make_an_adapter_of_both() -> None:
    stage, targets = on_experts([staged(Stage.BASE, FIRST), staged(Stage.REFINER, FIRST)])
    assert (stage, [set(of) for of in targets]) == (Stage.BOTH, [{FIRST}, {REFINER_FIRST}])


def test_factors_that_serve_both_experts_are_merged_with_each() -> None:
    stage, targets = on_experts([staged(Stage.BOTH, FIRST), staged(Stage.REFINER, FIRST)])
    expected = [{FIRST, REFINER_FIRST}, {REFINER_FIRST}]
    assert (stage, [set(of) for of in targets]) == (Stage.BOTH, expected)


def test_factors_of_each_expert_stay_apart() -> None:
    both = staged(Stage.BOTH, FIRST, REFINER_FIRST)
    stage, targets = on_experts([both, staged(Stage.BOTH, FIRST)])
    assert (stage, [set(of) for of in targets]) == (Stage.BOTH, [{FIRST, REFINER_FIRST}] * 2)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [((Stage.BASE, Stage.REFINER), Stage.BASE), ((Stage.REFINER, Stage.BASE), Stage.REFINER)],
)
def test_tokens_alone_do_not_bring_a_stage(stages: tuple[Stage, Stage], expected: Stage) -> None:
    of_tokens = replace(with_tokens(s0=1), made_for=MadeFor(stage=stages[1]))
    stage, targets = on_experts([staged(stages[0], FIRST), of_tokens])
    assert (stage, set(targets[0])) == (expected, {FIRST})


def test_what_is_known_of_one_holds_for_the_merge() -> None:
    known = MadeFor(family="nano", prediction_type="epsilon")
    found = merge_purposes([adapter_of(1), adapter_of(2, made_for=known)], Stage.BASE)
    assert (found.family, found.prediction_type) == ("nano", "epsilon")


@pytest.mark.parametrize(("other", "expected"), [("a", "a"), ("b", None), (None, None)])
def test_a_fingerprint_stays_where_all_have_it(other: str | None, expected: str | None) -> None:
    purposes = [MadeFor(base_fingerprint="a"), MadeFor(base_fingerprint=other)]
    adapters = [adapter_of(1, made_for=purpose) for purpose in purposes]
    assert merge_purposes(adapters, Stage.BASE).base_fingerprint == expected


@pytest.mark.parametrize(("other", "expected"), [(True, True), (False, None), (None, None)])
def test_zero_signal_stays_where_all_say_so(other: bool | None, expected: bool | None) -> None:
    adapters = [adapter_of(1, made_for=MadeFor(zero_snr=snr)) for snr in (True, other)]
    assert merge_purposes(adapters, Stage.BASE).zero_snr is expected


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([(0, 349), (200, 600)], (0, 600)),
        ([(0, 349), None], None),
        ([None, None], None),
    ],
)
def test_the_timesteps_hold_those_of_all(
    ranges: list[tuple[int, int] | None], expected: tuple[int, int] | None
) -> None:
    adapters = [adapter_of(1, made_for=MadeFor(timestep_range=found)) for found in ranges]
    assert merge_purposes(adapters, Stage.BASE).timestep_range == expected


def test_other_tokens_of_one_name_are_renamed() -> None:
    tokens, renamed = merge_tokens([with_tokens(s0=1, s1=2), with_tokens(s0=3), with_tokens(s0=4)])
    assert sorted(tokens) == ["<s0-2>", "<s0-3>", "<s0>", "<s1>"]
    assert [(one.position, one.renamed_to) for one in renamed] == [(1, "<s0-2>"), (2, "<s0-3>")]


def test_a_renamed_token_keeps_its_vectors() -> None:
    tokens, _ = merge_tokens([with_tokens(s0=1), with_tokens(s0=3)])
    kept = tokens["<s0-2>"].vectors[Component.TEXT_ENCODER]
    assert torch.equal(kept, noise(2, 8, seed=3))


def test_equal_tokens_are_one() -> None:
    tokens, renamed = merge_tokens([with_tokens(s0=1), with_tokens(s0=1)])
    assert (list(tokens), renamed) == (["<s0>"], ())


def test_a_name_that_another_adapter_uses_is_not_free() -> None:
    third = Adapter(tokens={"<s0-2>": token(5)})
    tokens, _ = merge_tokens([with_tokens(s0=1), with_tokens(s0=3), third])
    assert sorted(tokens) == ["<s0-2>", "<s0-3>", "<s0>"]


def test_a_plain_word_is_renamed_at_its_end() -> None:
    adapters = [Adapter(tokens={"tok": token(seed)}) for seed in (1, 2)]
    assert sorted(merge_tokens(adapters)[0]) == ["tok", "tok-2"]


def test_words_are_kept_once_and_follow_renamed_tokens() -> None:
    adapters = [
        Adapter(trigger_words=("toy", "<s0>")),
        Adapter(trigger_words=("<s0>", "toy", "hat")),
    ]
    renamed = [RenamedToken(position=1, text="<s0>", renamed_to="<s0-2>")]
    assert merge_words(adapters, renamed) == ("toy", "<s0>", "<s0-2>", "hat")


def test_metadata_that_all_agree_on_stays() -> None:
    adapters = [
        Adapter(metadata=MappingProxyType({"ss_sd_model": "x", "ss_seed": str(seed)}))
        for seed in (1, 2)
    ]
    found = merge_metadata(adapters, MergeSpec(method="ties", density=0.5))
    assert set(found) == {"ss_sd_model", MERGE_KEY}
    assert '"method": "ties"' in found[MERGE_KEY]


def test_low_ranks_are_not_copied() -> None:
    adapter = staged(Stage.BOTH, FIRST)
    _, targets = on_experts([adapter, staged(Stage.BASE, SECOND)])
    low_rank: LowRank = targets[0][REFINER_FIRST]
    assert low_rank is adapter.targets[FIRST]

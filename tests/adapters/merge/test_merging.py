"""Merging refuses whole, repeats itself to the bit, and tells how far it got."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diptych.adapters.adapter import Adapter, Component, LearnedToken, MadeFor, Stage
from diptych.adapters.bundle import digest_of
from diptych.adapters.merge.merging import merge
from diptych.adapters.merge.spec import MergeSpec
from diptych.errors import InvalidRequest
from support.made_adapters import noise
from support.updates import FIRST, KERNEL, SECOND, adapter_of, added, weight_of

TIES = MergeSpec(method="ties", density=0.5)


@pytest.mark.parametrize("space", ["product", "factors"])
@pytest.mark.parametrize("method", ["linear", "cat", "svd", "ties", "dare_ties"])
def test_equal_inputs_give_equal_digests(method: str, space: Any) -> None:
    density = 0.5 if "ties" in method else None
    spec = MergeSpec(method=method, space=space, density=density, seed=3)
    digests = {digest_of(merge([adapter_of(1), adapter_of(2)], spec).adapter) for _ in range(2)}
    assert len(digests) == 1


def test_threads_do_not_change_the_digest() -> None:
    threads = torch.get_num_threads()
    spec = MergeSpec(method="dare_ties", density=0.5)
    found = set()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.add(digest_of(merge([adapter_of(1), adapter_of(2)], spec).adapter))
    torch.set_num_threads(threads)
    assert len(found) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["svd", "ties", "dare_ties", "magnitude_prune", "della"])
def test_devices_agree(method: str) -> None:
    spec = MergeSpec(method=method, density=None if method == "svd" else 0.5)
    adapters = [adapter_of(seed, FIRST) for seed in (1, 2)]
    on_cpu, on_gpu = (
        added(merge(adapters, spec, device=torch.device(name)).adapter, FIRST)
        for name in ("cpu", "cuda")
    )
    assert float((on_cpu - on_gpu).norm() / on_cpu.norm()) < 1e-5


def test_the_order_of_targets_does_not_matter() -> None:
    spec = MergeSpec(method="dare_ties", density=0.5)
    turned = [
        replace(adapter, targets=dict(reversed(list(adapter.targets.items()))))
        for adapter in (adapter_of(1), adapter_of(2))
    ]
    one = merge([adapter_of(1), adapter_of(2)], spec).adapter
    assert digest_of(one) == digest_of(merge(turned, spec).adapter)


def test_other_targets_do_not_move_the_draws() -> None:
    spec = MergeSpec(method="dare_linear", density=0.5)
    one = merge([adapter_of(1, FIRST)], spec).adapter
    more = merge([adapter_of(1, FIRST, KERNEL, SECOND)], spec).adapter
    assert torch.equal(one.targets[FIRST].up, more.targets[FIRST].up)


def test_a_target_that_some_lack_is_merged_of_the_others() -> None:
    merged = merge([adapter_of(1, FIRST), adapter_of(2, FIRST, SECOND)], TIES).adapter
    alone = merge([Adapter(), adapter_of(2, SECOND)], TIES).adapter
    assert set(merged.targets) == {FIRST, SECOND}
    expected = added(adapter_of(2, SECOND), SECOND)
    assert float((added(alone, SECOND) - expected).norm() / expected.norm()) < 0.6


def test_stages_that_differ_are_merged_apart() -> None:
    adapters = [
        adapter_of(seed, FIRST, made_for=MadeFor(family="nano", stage=stage))
        for seed, stage in ((1, Stage.BASE), (2, Stage.REFINER))
    ]
    merged = merge(adapters, MergeSpec(method="linear")).adapter
    assert merged.made_for.stage is Stage.BOTH
    refiner = replace(FIRST, component=Component.REFINER_UNET)
    moved = Adapter(targets={FIRST: merged.targets[refiner]})
    assert torch.allclose(added(moved, FIRST), added(adapters[1], FIRST), atol=1e-5)


def test_tokens_are_merged_too() -> None:
    adapters = [
        Adapter(
            tokens={"<s0>": LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 8, seed=s)})}
        )
        for s in (1, 2)
    ]
    merged = merge(adapters, MergeSpec(method="linear"))
    assert set(merged.adapter.tokens) == {"<s0>", "<s0-2>"}
    assert [one.renamed_to for one in merged.report.renamed] == ["<s0-2>"]


@pytest.mark.parametrize("method", ["linear", "ties", "cat", "ties_svd"])
def test_tokens_alone_do_not_keep_factors_from_being_merged(method: str) -> None:
    tokens = {"<s0>": LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 8)})}
    density = 0.5 if "ties" in method else None
    spec = MergeSpec(method=method, space="factors", density=density)
    adapters = [adapter_of(seed) for seed in (1, 2)]
    merged = merge([*adapters, Adapter(tokens=tokens)], spec).adapter
    alone = merge(adapters, spec).adapter
    assert torch.equal(merged.targets[FIRST].up, alone.targets[FIRST].up)


@pytest.mark.parametrize("method", ["linear", "svd", "slerp"])
def test_an_adapter_less_itself_is_nothing(method: str) -> None:
    spec = MergeSpec(method=method, weights=(1.0, -1.0))
    merged = merge([adapter_of(1), adapter_of(1)], spec)
    assert float(added(merged.adapter, FIRST).norm()) == 0
    assert merged.report.error == 0


@pytest.mark.parametrize("method", ["linear", "cat", "svd", "ties", "magnitude_prune"])
def test_the_order_of_adapters_moves_nothing_but_rounding(method: str) -> None:
    density = 0.5 if method in {"ties", "magnitude_prune"} else None
    adapters, weights = [adapter_of(seed) for seed in (1, 2, 3)], (1.0, 0.5, 0.2)
    one = MergeSpec(method=method, density=density, weights=weights)
    found = added(merge(adapters, one).adapter, FIRST)
    turned = replace(one, weights=weights[::-1])
    other = added(merge(adapters[::-1], turned).adapter, FIRST)
    assert float((found - other).norm() / found.norm()) < 1e-6


def test_progress_is_told_target_by_target() -> None:
    seen: list[tuple[int, int]] = []
    merge([adapter_of(1)], TIES, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_what_progress_raises_ends_the_merge() -> None:
    def give_up(done: int, total: int) -> None:
        raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match="1 of 2"):
        merge([adapter_of(1)], TIES, progress=give_up)


def test_everything_wrong_is_named_at_once() -> None:
    adapters = [
        adapter_of(1, made_for=MadeFor(family="sdxl-base")),
        adapter_of(2, made_for=MadeFor(family="ssd-1b"), side="out"),
    ]
    with pytest.raises(InvalidRequest) as caught:
        merge(adapters, MergeSpec(method="ties", density=0.0, weights=(float("nan"), 1.0)))
    assert [violation.field for violation in caught.value.violations] == [
        "weights[0]",
        "density",
        "adapters[1]",
        "adapters[1]",
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TIES, "depends on the base model's weights"),
        (MergeSpec(method="linear", space="factors"), "PEFT's merges lose"),
        (MergeSpec(method="cat"), "full rank"),
    ],
)
def test_a_dora_is_refused_where_it_cannot_be_merged(spec: MergeSpec, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        merge([adapter_of(1), adapter_of(2, side="out")], spec)


def test_a_dora_is_merged_with_the_weights_it_changes() -> None:
    adapters = [adapter_of(1), adapter_of(2, side="out")]
    merged = merge(adapters, TIES, weight_of=weight_of)
    assert all(low_rank.magnitude is None for low_rank in merged.adapter.targets.values())


def test_no_adapters_at_all_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="adapters: 0 adapters"):
        merge([], TIES)

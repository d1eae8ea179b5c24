"""Full experts merge into a checkpoint that loads, or into nothing at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.adapters.merge.spec import MergeSpec
from diptych.errors import CheckpointInvalid, InvalidRequest, NameTaken
from diptych.inference.expert_merge import ExpertMerge, merge_experts
from diptych.models.checkpoint import SourceConfig
from support.small_experts import make_expert, small_unet, stored, write_shards

TIES = MergeSpec(method="ties", weights=(1.0, 0.5), density=0.5)
Family = Callable[..., tuple[Path, list[Path]]]


@pytest.fixture
def trio(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Return a base and two experts made from it."""
    return family(tmp_path)


def family(folder: Path, **options: Any) -> tuple[Path, list[Path]]:
    base = make_expert(folder / "base", **options)
    tuned = [make_expert(folder / f"e{s}", seed=s, tuned_from=base, **options) for s in (1, 2)]
    return base, tuned


def merged(base: Path, tuned: list[Path], spec: MergeSpec = TIES, **options: Any) -> ExpertMerge:
    return merge_experts(
        str(base),
        [str(folder) for folder in tuned],
        spec,
        base.parent / options.pop("out", "out"),
        config=SourceConfig(cache_dir=base.parent / "cache"),
        **options,
    )


def refusal(base: Path, *tuned: Path) -> str:
    with pytest.raises(InvalidRequest) as refused:
        merged(base, list(tuned), MergeSpec(method="linear", weights=(1.0,) * len(tuned)))
    assert not (base.parent / "out").exists()
    return str(refused.value)


def test_linear_is_the_weighted_sum(trio: tuple[Path, list[Path]]) -> None:
    base, tuned = trio
    folder = merged(base, tuned, MergeSpec(method="linear", weights=(0.5, 0.25))).folder
    found, origin, one, two = (stored(path) for path in (folder, base, *tuned))
    for name, weight in origin.items():
        expected = 0.25 * weight + 0.5 * one[name] + 0.25 * two[name]
        assert torch.allclose(found[name], expected, atol=1e-6)


def test_diffusers_loads_the_result(trio: tuple[Path, list[Path]]) -> None:
    folder = merged(*trio).folder
    loaded = type(small_unet()).from_pretrained(folder / "unet").state_dict()
    written = stored(folder)
    assert all(torch.equal(loaded[name], written[name]) for name in written)


def test_equal_merges_give_equal_bytes(trio: tuple[Path, list[Path]]) -> None:
    spec = MergeSpec(method="dare_ties", weights=(1.0, 1.0), density=0.3, seed=5)
    folders = [merged(*trio, spec, out=name).folder for name in ("first", "second")]
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
        for root in folders
    )
    assert first == second


def test_shards_change_nothing(trio: tuple[Path, list[Path]]) -> None:
    whole = stored(merged(*trio, out="whole").folder)
    write_shards(trio[1][0])
    write_shards(trio[0])
    assert all(torch.equal(whole[k], t) for k, t in stored(merged(*trio).folder).items())


def test_a_folder_of_a_unet_alone_is_an_expert(trio: tuple[Path, list[Path]]) -> None:
    base, (first, second) = trio
    whole = stored(merged(base, [first, second], out="whole").folder)
    alone = stored(merged(base, [first / "unet", second]).folder)
    assert all(torch.equal(whole[name], tensor) for name, tensor in alone.items())


def test_the_bases_dtype_stays(tmp_path: Path) -> None:
    base, tuned = family(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in stored(merged(base, tuned).folder).values()} == {
        torch.bfloat16
    }


def test_progress_counts_the_tensors(trio: tuple[Path, list[Path]]) -> None:
    seen: list[tuple[int, int]] = []
    merged(*trio, progress=lambda done, total: seen.append((done, total)))
    total = len(stored(trio[0]))
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_a_merge_that_is_stopped_leaves_nothing(trio: tuple[Path, list[Path]]) -> None:
    before = sorted(trio[0].parent.iterdir())

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged(*trio, progress=stop)
    assert sorted(trio[0].parent.iterdir()) == before


def test_weights_with_nan_leave_nothing(trio: tuple[Path, list[Path]]) -> None:
    base, (first, second) = trio
    bad = make_expert(base.parent / "bad", dtype=torch.float16, tuned_from=first)
    file = bad / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-2] + b"\xff\x7f")
    with pytest.raises(CheckpointInvalid, match="holds NaN or infinity"):
        merged(base, [second, bad])
    assert not (base.parent / "out").exists()


def test_the_report_has_every_tensor(trio: tuple[Path, list[Path]]) -> None:
    result = merged(*trio)
    said = json.loads((result.folder / "merge_report.json").read_text())
    assert said["tensors"].keys() == stored(trio[0]).keys()
    assert said["error"] == result.error > 0
    assert said["weights"] == [1.0, 0.5]


def test_what_is_there_is_not_replaced(trio: tuple[Path, list[Path]]) -> None:
    merged(*trio)
    with pytest.raises(NameTaken):
        merged(*trio)


def test_another_architecture_is_refused_by_its_tensors(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    wide = make_expert(tmp_path / "wide", width=64)
    said = refusal(base, wide)
    assert "experts[0]" in said
    assert "add_embedding.linear_1.bias is [256], the base's [128]" in said
    assert "its block_out_channels is [64, 64], the base's [32, 32]" in said


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    base, (first, _) = family(tmp_path)
    write_shards(first)
    index = first / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    missing = sorted(stored(base))[1]
    assert f"misses {missing}" in refusal(base, first)


@pytest.mark.parametrize(
    "changed", [{"prediction_type": "epsilon"}, {"rescale_betas_zero_snr": False}]
)
def test_an_expert_that_predicts_something_else_is_refused(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    base = make_expert(tmp_path / "base")
    other = make_expert(tmp_path / "other", tuned_from=base, **changed)
    assert f"its {next(iter(changed))} is" in refusal(base, other)


def test_a_base_of_a_unet_alone_is_refused(trio: tuple[Path, list[Path]]) -> None:
    with pytest.raises(CheckpointInvalid, match="is no whole folder"):
        merged(trio[0] / "unet", trio[1])

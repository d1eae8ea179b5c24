"""Random experts are checkpoints that merge, and a process's peak is its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.adapters.merge.spec import MergeSpec
from diptych.bench.expert_merge import measure_expert_merge, spend, write_experts
from diptych.errors import InvalidRequest
from diptych.inference.expert_merge import merge_experts
from diptych.models.checkpoint import SourceConfig
from support.small_experts import small_unet

HOLDS = "b = b'x' * {}; import threading; threading.Event().wait(0.2)"


def test_random_experts_merge(tmp_path: Path) -> None:
    base, *experts = map(str, write_experts(tmp_path, dict(small_unet().config), num_experts=2))
    spec = MergeSpec(method="ties", weights=(0.5, 0.5), density=0.5)
    result = merge_experts(
        base, experts, spec, tmp_path / "out", config=SourceConfig(cache_dir=tmp_path)
    )
    assert 0 < result.error < 1


def test_the_peak_is_what_the_process_held() -> None:
    small, large = (spend([sys.executable, "-c", HOLDS.format(size)]) for size in (1, 1 << 28))
    assert 0.9 < (large.peak_bytes - small.peak_bytes) / (1 << 28) < 1.2


def test_a_process_that_fails_is_no_measurement() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        spend([sys.executable, "-c", "raise SystemExit(3)"])


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'sd3' is not one of sdxl"):
        measure_expert_merge(tmp_path, architecture="sd3", method="ties", num_experts=2)

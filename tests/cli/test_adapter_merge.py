"""``diptych adapters merge`` against the real service on the nano pair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.adapters.adapter import Adapter, Component, LowRank, Target
from diptych.adapters.bundle import to_bytes
from support.made_adapters import noise

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]
MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
WIDTH = 96


@pytest.fixture
def sources(invoke_json: InvokeJson, server: str, tmp_path: Path) -> list[str]:
    target = Target(component=Component.UNET, module=MODULE)
    for seed in (1, 2):
        down, up = noise(4, WIDTH, seed=seed), noise(WIDTH, 4, seed=seed + 9)
        path = tmp_path / f"m{seed}.safetensors"
        path.write_bytes(to_bytes(Adapter(targets={target: LowRank(down=down, up=up, alpha=4.0)})))
        invoke_json("adapters", "import", path, "--name", f"m/{seed}", "--server", server)
    return ["m/1@0.7", "m/2@0.3"]


def test_linear_merge_is_the_weighted_sum(
    invoke_json: InvokeJson, server: str, sources: list[str]
) -> None:
    answer = invoke_json("adapters", "merge", *sources, "--name", "m/both", "--server", server)
    assert answer["adapter"]["max_rank"] == 8
    assert answer["relative_error"] < 1e-5


def test_merging_again_gives_the_same_digest(
    invoke_json: InvokeJson, server: str, sources: list[str]
) -> None:
    flags = ("--method", "dare_ties", "--density", 0.5, "--seed", 7, "--server", server)
    digests = {
        invoke_json("adapters", "merge", *sources, "--name", f"m/{name}", *flags)["adapter"][
            "digest"
        ]
        for name in ("one", "two")
    }
    assert len(digests) == 1


def test_every_wrong_flag_is_named(invoke: Invoke, server: str) -> None:
    result = invoke(
        "adapters", "merge", "a", "b", "--name", "..", "--density", 2, "--server", server
    )
    assert result.exit_code == 2
    assert all(flag in result.output for flag in ("--name", "--density"))

"""``diptych models merge`` as typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.cli.models_merge import parse_weighted
from diptych.errors import InvalidRequest
from support.small_experts import make_expert, stored

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]


@pytest.fixture
def trio(tmp_path: Path) -> list[Path]:
    """Return a base and two experts made from it."""
    base = make_expert(tmp_path / "base")
    return [base, *(make_expert(tmp_path / f"e{s}", seed=s, tuned_from=base) for s in (1, 2))]


def test_the_result_is_where_it_says(trio: list[Path], invoke: Invoke, tmp_path: Path) -> None:
    base, one, two = trio
    out = tmp_path / "out"
    result = invoke(
        "models", "merge", "--base", base, "--density", 0.4, "-o", out, f"{one}@0.7", f"{two}@0.3"
    )
    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    assert stored(out).keys() == stored(base).keys()


def test_json_has_the_error_of_every_tensor(
    trio: list[Path], invoke_json: InvokeJson, tmp_path: Path
) -> None:
    base, one, two = trio
    answer = invoke_json(
        "models", "merge", "--base", base, "--method", "linear", "-o", tmp_path / "out", one, two
    )
    assert {item["name"] for item in answer["tensors"]} == stored(base).keys()
    assert answer["error"] < 1e-5


def test_bad_options_are_named_as_flags(trio: list[Path], invoke: Invoke, tmp_path: Path) -> None:
    base, one, _ = trio
    result = invoke("models", "merge", "--base", base, "-o", tmp_path / "out", one)
    assert (result.exit_code, "--density (density)" in result.stderr) == (2, True)


def test_nano_is_known_by_name(invoke: Invoke, tmp_path: Path) -> None:
    pickle = tmp_path / "expert.ckpt"
    pickle.touch()
    result = invoke(
        "models", "merge", "--base", "nano/base", "--method", "linear", "-o", tmp_path / "o", pickle
    )
    assert (result.exit_code, "is a pickle" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("some/folder@0.5", ("some/folder", 0.5)),
        ("owner/name@main", ("owner/name@main", 1.5)),
        ("owner/name@main@-1", ("owner/name@main", -1.0)),
        ("plain", ("plain", 1.5)),
        ("@2", ("@2", 1.5)),
        ("0.5", ("0.5", 1.5)),
    ],
)
def test_a_weight_is_what_follows_the_last_at(text: str, expected: tuple[str, float]) -> None:
    assert parse_weighted(text, 1.5) == expected


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf"])
def test_a_weight_must_be_finite(weight: str) -> None:
    with pytest.raises(InvalidRequest, match="not a finite number"):
        parse_weighted(f"some@{weight}", 1.0)

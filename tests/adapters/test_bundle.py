"""One adapter has one bundle, and the bundle says all of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors import safe_open
from safetensors.torch import load, save

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, Magnitude, Target
from diptych.adapters.bundle import HEADER_KEY, bundle_pieces, digest_of, from_bytes, to_bytes
from diptych.digest import Digest
from diptych.errors import AdapterInvalid
from support.made_adapters import adapters, noise

CONV = Target(component=Component.UNET, module="mid_block.resnets.0.conv1")
QUERY = Target(component=Component.TEXT_ENCODER, module="text_model.encoder.layers.0.q_proj")
FIRST, SECOND = Component.TEXT_ENCODER, Component.TEXT_ENCODER_2
ADAPTER = Adapter(
    targets={
        CONV: LowRank(down=noise(2, 3, 3, 3), up=noise(4, 2), alpha=1.0),
        QUERY: LowRank(
            down=noise(3, 6, dtype=torch.float16),
            up=noise(5, 3, dtype=torch.float16),
            alpha=3.0,
            magnitude=Magnitude(norms=torch.ones(6), per_input=True),
        ),
    },
    tokens={"<s0>": LearnedToken(vectors={FIRST: noise(2, 8), SECOND: noise(2, 9)})},
    trigger_words=("huggy",),
    metadata={"ss_network_dim": "2"},
)


def spoilt(change: Any) -> bytes:
    """Return ADAPTER's bundle with its header's content changed by ``change``."""
    data = to_bytes(ADAPTER)
    size = int.from_bytes(data[:8], "little")
    content = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][HEADER_KEY])
    change(content)
    return save(load(data), {HEADER_KEY: json.dumps(content)})


@given(adapters())
def test_is_read_back_as_it_was_written(adapter: Adapter) -> None:
    read = from_bytes(to_bytes(adapter))
    assert (read.made_for, read.trigger_words) == (adapter.made_for, adapter.trigger_words)
    assert (dict(read.metadata), digest_of(read)) == (dict(adapter.metadata), digest_of(adapter))
    assert {t: (u.alpha, u.rank, u.weight_shape) for t, u in read.targets.items()} == {
        t: (u.alpha, u.rank, u.weight_shape) for t, u in adapter.targets.items()
    }


def test_every_tensor_is_read_back_bit_for_bit() -> None:
    read = from_bytes(to_bytes(ADAPTER))
    for target, update in ADAPTER.targets.items():
        torch.testing.assert_close(read.targets[target].down, update.down, rtol=0, atol=0)
        torch.testing.assert_close(read.targets[target].up, update.up, rtol=0, atol=0)
    assert read.targets[QUERY].magnitude.norms.tolist() == [1.0] * 6  # type: ignore[union-attr]
    assert torch.equal(read.tokens["<s0>"].vectors[SECOND], noise(2, 9))


@given(adapters())
def test_does_not_depend_on_the_order_of_keys(adapter: Adapter) -> None:
    def backwards(values: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(list(values.items())[::-1])

    other = replace(
        adapter,
        targets=backwards(adapter.targets),
        tokens=backwards(adapter.tokens),
        metadata=backwards(adapter.metadata),
    )
    assert to_bytes(other) == to_bytes(adapter)


def test_does_not_depend_on_how_tensors_lie_in_memory() -> None:
    update = ADAPTER.targets[CONV]
    turned = replace(update, up=update.up.T.contiguous().T)
    assert not turned.up.is_contiguous()
    other = replace(ADAPTER, targets={**ADAPTER.targets, CONV: turned})
    assert digest_of(other) == digest_of(ADAPTER)


def test_digest_is_the_same_everywhere() -> None:
    golden = "418f086d2e0a35bd6485d7551eceb5ee2b622a9e12281aa79c30ac96a8400df5"
    assert digest_of(ADAPTER_OF_CONSTANTS).hex == golden


ADAPTER_OF_CONSTANTS = Adapter(
    targets={CONV: LowRank(down=torch.ones(1, 2, 3, 3), up=torch.full((3, 1), 0.5), alpha=2.0)},
    tokens={"<s0>": LearnedToken(vectors={FIRST: torch.zeros(1, 4, dtype=torch.bfloat16)})},
    trigger_words=("snow \N{SNOWMAN}",),
)


def test_there_is_one_zero() -> None:
    first, second = (
        replace(ADAPTER, targets={CONV: replace(ADAPTER.targets[CONV], alpha=zero)})
        for zero in (0.0, -0.0)
    )
    assert digest_of(first) == digest_of(second)


def test_digest_is_that_of_the_bytes() -> None:
    assert digest_of(ADAPTER) == Digest.of_bytes(to_bytes(ADAPTER))
    assert b"".join(bundle_pieces(ADAPTER)) == to_bytes(ADAPTER)


def test_any_difference_changes_the_digest() -> None:
    others = [
        replace(ADAPTER, trigger_words=()),
        replace(ADAPTER, metadata={}),
        replace(ADAPTER, tokens={}),
        replace(ADAPTER, targets={CONV: ADAPTER.targets[CONV]}),
        replace(
            ADAPTER, targets={**ADAPTER.targets, CONV: replace(ADAPTER.targets[CONV], alpha=2)}
        ),
    ]
    assert len({digest_of(adapter) for adapter in [ADAPTER, *others]}) == 6


def test_safetensors_itself_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    path.write_bytes(to_bytes(ADAPTER))
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor(f"unet.{CONV.module}/up"), ADAPTER.targets[CONV].up)


def test_a_file_is_mapped_and_equal_to_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    path.write_bytes(to_bytes(ADAPTER))
    read = from_bytes(path)
    path.unlink()
    assert digest_of(read) == digest_of(ADAPTER)


def test_writing_to_what_was_read_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    path.write_bytes(to_bytes(ADAPTER))
    from_bytes(path).targets[CONV].up.zero_()
    assert path.read_bytes() == to_bytes(ADAPTER)


BAD_CONTENTS: dict[str, tuple[Any, str]] = {
    "version": (lambda c: c.update(version=2), "version 2, expected 1"),
    "no targets": (lambda c: c.pop("targets"), "targets None, expected a map"),
    "unknown target": (lambda c: c["targets"].update({"vae.x": {"alpha": 1.0}}), "'vae.x'"),
    "missing tensor": (
        lambda c: c["targets"].update({"unet.x": {"alpha": 1.0}}),
        "misses tensor 'unet.x/down'",
    ),
    "unowned tensor": (lambda c: c["targets"].pop(f"unet.{CONV.module}"), "does not name"),
    "alpha": (
        lambda c: c["targets"][f"unet.{CONV.module}"].update(alpha=10**400),
        "has alpha 1000",
    ),
    "alpha NaN": (lambda c: c["targets"][f"unet.{CONV.module}"].update(alpha=float("nan")), "nan"),
    "side": (
        lambda c: c["targets"][f"unet.{CONV.module}"].update(magnitude_per="row"),
        "expected output or input",
    ),
    "wrong side": (
        lambda c: c["targets"][f"text_encoder.{QUERY.module}"].update(magnitude_per="output"),
        r"magnitude \[6\], expected \[5\]",
    ),
    "token twice": (lambda c: c.update(tokens=["<s0>", "<s0>"]), "twice"),
    "token without vectors": (lambda c: c.update(tokens=["<s0>", "<s1>"]), "'<s1>' has vectors"),
    "tokens": (lambda c: c.update(tokens="<s0>"), "expected a list of texts"),
    "stage": (lambda c: c["made_for"].update(stage="third"), "stage 'third'"),
    "metadata": (lambda c: c["metadata"].update(a=1), "not a map of texts"),
    "surrogate": (lambda c: c["metadata"].update(a="\ud800"), "not Unicode"),
}


@pytest.mark.parametrize(("change", "problem"), BAD_CONTENTS.values(), ids=BAD_CONTENTS)
def test_refuses_a_header_that_its_tensors_do_not_bear_out(change: Any, problem: str) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        from_bytes(spoilt(change), source="here")


def test_refuses_a_file_that_is_no_bundle() -> None:
    with pytest.raises(AdapterInvalid, match="adapter here: has no diptych_adapter"):
        from_bytes(save({"a": torch.ones(1)}), source="here")


def test_refuses_a_header_that_is_not_json() -> None:
    with pytest.raises(AdapterInvalid, match="no valid JSON"):
        from_bytes(save({"a": torch.ones(1)}, {HEADER_KEY: "[" * 100_000}))

"""A text that was embedded before is not encoded again, and nobody can tell by the numbers."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from diptych.digest import Digest
from diptych.embeddings.memory import MemoryTier
from diptych.inference.cached_texts import EncodedText, encode_texts
from diptych.inference.prompt_cache import LocalPrompts
from diptych.models.embedding_values import read_prompt, write_prompt
from diptych.models.experts import load_experts
from diptych.models.text_encoders import (
    PromptEmbeds,
    PromptRow,
    TextEncoder,
    TextEncoders,
    TextVariant,
)

TEXTS = ("a red circle", "", "blue square " * 9, None)
ROWS = [PromptRow(text=text) for text in TEXTS]
MOON = {name: {"<moon>": torch.ones(1, 64)} for name in ("text_encoder", "text_encoder_2")}
DARK_MOON = {name: {"<moon>": -torch.ones(1, 64)} for name in MOON}


@pytest.fixture(scope="module")
def text(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> TextEncoders:
    cache_dir = tmp_path_factory.mktemp("cache")
    base = load_experts(str(nano_pair / "base"), None, cache_dir=cache_dir).base
    assert base is not None
    return base.text


class Counting(LocalPrompts):
    """Memory that remembers what it was asked and given."""

    def __init__(self, limit_bytes: int = 1 << 24) -> None:
        super().__init__(MemoryTier(limit_bytes))
        self.asked: list[Digest] = []
        self.kept: dict[Digest, bytes] = {}

    @override
    def get_many(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        self.asked += keys
        return super().get_many(keys)

    @override
    def put_many(self, entries: Mapping[Digest, bytes]) -> None:
        self.kept.update(entries)
        super().put_many(entries)


def same(ours: Sequence[EncodedText], theirs: Sequence[EncodedText]) -> bool:
    return all(
        torch.equal(one.embeds.hidden, other.embeds.hidden)
        and torch.equal(one.embeds.pooled, other.embeds.pooled)
        for one, other in zip(ours, theirs, strict=True)
    )


def cached(found: Sequence[EncodedText]) -> list[bool]:
    return [row.is_cached for row in found]


def test_what_was_encoded_before_comes_back_bit_for_bit(text: TextEncoders) -> None:
    prompts, plain = Counting(), encode_texts(text, ROWS, None, None)
    first = encode_texts(text, ROWS, None, prompts)
    second = encode_texts(text, ROWS, None, prompts)
    assert (cached(first), cached(second)) == ([False] * 4, [True] * 4)
    assert same(first, plain)
    assert same(second, plain)


def test_rows_keep_their_order_where_some_are_cached(text: TextEncoders) -> None:
    prompts = Counting()
    encode_texts(text, [ROWS[2], ROWS[0]], None, prompts)
    found = encode_texts(text, ROWS, None, prompts)
    assert cached(found) == [True, False, True, False]
    assert same(found, encode_texts(text, ROWS, None, None))


def test_equal_rows_are_looked_for_once(text: TextEncoders) -> None:
    prompts = Counting()
    assert cached(encode_texts(text, [ROWS[0]] * 3, None, prompts)) == [False] * 3
    assert len(prompts.asked) == len(prompts.kept) == 1


def test_the_encoders_do_not_run_for_what_is_cached(
    text: TextEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = Counting()
    encode_texts(text, ROWS, None, prompts)

    def never(*_: object) -> None:
        raise AssertionError("was encoded")

    monkeypatch.setattr(TextEncoder, "encode", never)
    assert all(cached(encode_texts(text, ROWS, None, prompts)))


def test_what_changes_an_embedding_is_never_answered_with_another(text: TextEncoders) -> None:
    rows = [
        PromptRow(text="a <moon>"),
        PromptRow(text="a <moon>", variant=TextVariant(tokens=MOON)),
        PromptRow(text="a <moon>", variant=TextVariant(tokens=DARK_MOON)),
        PromptRow(text="a <moon>", clip_skip=1),
        PromptRow(text="a <moon>", long_prompt="chunk", min_windows=2),
    ]
    prompts = Counting()
    for row in rows:
        (found,) = encode_texts(text, [row], None, prompts)
        assert not found.is_cached
    again = encode_texts(text, rows, None, prompts)
    assert all(cached(again))
    assert same(again, encode_texts(text, rows, None, None))


@contextmanager
def scaled(encoder: TextEncoder, variants: Sequence[TextVariant | None]) -> Iterator[None]:
    """Let the weights of a variant be a factor on the first layer's output."""
    factors = [1.0 if v is None or v.weights is None else float(str(v.weights)) for v in variants]
    layer = next(m for name, m in encoder.module.named_modules() if name.endswith("layers.0.mlp"))
    assert isinstance(layer, nn.Module)

    def scale(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return output * torch.tensor(factors).view(-1, 1, 1)

    hook = layer.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


def test_adapters_never_meet_each_others_embeddings(text: TextEncoders) -> None:
    rows = [
        PromptRow(text="a", variant=TextVariant(weights=factor, identity=(f"sha256:aa@{factor}",)))
        for factor in (0.5, 2.0)
    ] + [PromptRow(text="a")]
    prompts = Counting()
    one_by_one = [encode_texts(text, [row], scaled, prompts)[0] for row in rows]
    assert cached(one_by_one) == [False] * 3
    again = encode_texts(text, rows, scaled, prompts)
    assert all(cached(again))
    assert same(again, encode_texts(text, rows, scaled, None))


def test_weights_that_no_key_can_tell_are_not_cached(text: TextEncoders) -> None:
    row = PromptRow(text="a", variant=TextVariant(weights=0.5))
    prompts = Counting()
    for _ in range(2):
        assert cached(encode_texts(text, [row], scaled, prompts)) == [False]
    assert not prompts.kept


def hurt(text: TextEncoders, entry: bytes, damage: str) -> bytes:
    """Return an entry that others would take for one of these encoders, and is not."""
    if damage == "cut":
        return entry[:-4]
    own = read_prompt(entry, device=text.device, dtype=text.dtype)
    hidden, pooled = own.hidden, own.pooled
    if damage == "not finite":
        return entry[:-4] + struct.pack("<f", float("nan"))
    changed = {
        "longer": PromptEmbeds(hidden=hidden.repeat(1, 2, 1), pooled=pooled),
        "wider": PromptEmbeds(hidden=hidden.repeat(1, 1, 2), pooled=pooled),
        "pooled wider": PromptEmbeds(hidden=hidden, pooled=pooled.repeat(1, 2)),
        "pooled narrower": PromptEmbeds(hidden=hidden, pooled=pooled[:, 1:]),
    }
    return write_prompt(changed[damage], "float32")


@pytest.mark.parametrize(
    "damage", ["cut", "longer", "wider", "pooled wider", "pooled narrower", "not finite"]
)
def test_a_bad_entry_is_encoded_anew_and_replaced(
    text: TextEncoders, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = Counting()
    encode_texts(text, [ROWS[0]], None, prompts)
    ((key, good),) = prompts.kept.items()
    LocalPrompts.put_many(prompts, {key: hurt(text, good, damage)})
    (found,) = encode_texts(text, [ROWS[0]], None, prompts)
    assert not found.is_cached
    assert prompts.get_many([key]) == {key: good}
    assert "is encoded anew" in caplog.text


def test_memory_without_room_encodes_every_time(text: TextEncoders) -> None:
    prompts = Counting(limit_bytes=10)
    for _ in range(2):
        assert cached(encode_texts(text, [ROWS[0]], None, prompts)) == [False]

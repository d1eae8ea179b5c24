"""Captions from every place, changed in order, and drawn."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets.captions import CaptionReader, drawn_caption, shuffled
from diptych.datasets.findings import Findings
from diptych.datasets.sources.base import SourceItem
from diptych.datasets.spec import CaptionFilter, CaptionsSpec, ShuffleSpec
from diptych.digest import Digest

IMAGE = Digest.of_bytes(b"image")


def read(
    data: bytes | None = None,
    *,
    row: Mapping[str, object] | None = None,
    name: str = "sub/a photo of a cat",
    **spec: object,
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return captions, and the reasons of what was found."""
    findings = Findings()
    reader = CaptionReader(CaptionsSpec(**spec), findings.of_dataset("one"))  # type: ignore[arg-type]
    item = SourceItem(place=f"{name}.png", name=name, row=row or {})
    found = reader.read(item, data if data is None else data[: reader.text_limit], IMAGE)
    return found, [f"{one.reason} {one.action}" for one in findings]


def test_a_text_file_has_a_caption_on_each_line() -> None:
    assert read(b" a cat \r\n\n a dog\n") == (("a cat", "a dog"), [])


def test_lines_may_be_one_caption() -> None:
    assert read(b"a cat\n  and a dog\n", split_lines=False) == (("a cat and a dog",), [])


def test_the_file_name_may_be_the_caption() -> None:
    assert read(strategy="file_name") == (("a photo of a cat",), [])


def test_an_instance_prompt_may_be_all() -> None:
    assert read(strategy="instance_prompt", instance_prompt="sks dog") == (("sks dog",), [])


def test_no_captions_may_be_wanted() -> None:
    assert read(strategy="none") == (("",), [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb", ("a", "b")),
        (["a", "b", 3, ""], ("a", "b")),
        (("a",), ("a",)),
        ("", ("other",)),
        (7, ("other",)),
    ],
)
def test_a_column_holds_one_caption_or_several(value: object, expected: tuple[str, ...]) -> None:
    row = {"text": value, "alt": "other"}
    assert read(strategy="column", fallback_column="alt", row=row)[0] == expected


def test_filters_are_applied_in_order_before_the_prompt_is_prepended() -> None:
    filters = (
        CaptionFilter(pattern=r"\s*\(.*?\)"),
        CaptionFilter(pattern="(c)at", replacement=r"\1ow"),
    )
    found, _ = read(
        b"a cat (1), sks", filters=filters, instance_prompt="sks (x)", prepend_instance_prompt=True
    )
    assert found == ("sks (x) a cow, sks",)


def test_the_same_caption_comes_once() -> None:
    assert read(b"a\na\nb\n")[0] == ("a", "b")


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (None, ["caption_missing skipped"]),
        (b" \n\n", ["caption_missing skipped"]),
        (b"ol\xe9", ["caption_not_utf8 reported", "caption_missing skipped"]),
        (b"x" * 10 * 2**20, ["caption_too_long reported", "caption_missing skipped"]),
        ("ü".encode() * 9000, ["caption_too_long reported", "caption_missing skipped"]),
    ],
)
def test_a_caption_that_cannot_be_used_is_named(data: bytes | None, reasons: list[str]) -> None:
    assert read(data) == (None, reasons)


def test_a_byte_order_mark_is_left_out_and_named() -> None:
    assert read(b"\xef\xbb\xbfa cat") == (("a cat",), ["caption_has_bom reported"])


def test_half_a_character_is_no_text() -> None:
    _, reasons = read(strategy="column", row={"text": "a \ud800"})
    assert reasons == ["caption_not_utf8 reported", "caption_missing skipped"]


def test_a_reader_says_what_it_reads() -> None:
    note = Findings().of_dataset("one")
    text = CaptionReader(CaptionsSpec(max_bytes=100), note)
    assert (text.extension, text.text_limit, text.columns) == (".txt", 104, frozenset())
    column = CaptionReader(CaptionsSpec(strategy="column", fallback_column="alt"), note)
    assert column.extension is None
    assert column.columns == {"text", "alt"}


@pytest.mark.parametrize(
    ("fallback", "expected"), [("empty", ("",)), ("instance_prompt", ("sks dog",))]
)
def test_what_stands_in_for_a_missing_caption_is_named(
    fallback: str, expected: tuple[str, ...]
) -> None:
    found = read(None, fallback=fallback, instance_prompt="sks dog")
    assert found == (expected, ["caption_missing reported"])


TAGS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=8)


@given(tags=TAGS, num_kept=st.integers(0, 4), num_variants=st.integers(1, 5))
def test_shuffling_keeps_the_tags_and_their_beginning(
    tags: list[str], num_kept: int, num_variants: int
) -> None:
    spec = ShuffleSpec(num_kept=num_kept, num_variants=num_variants)
    found = shuffled(", ".join(tags), spec, IMAGE)
    assert found[0] == ", ".join(tags)
    assert len(set(found)) == len(found) <= num_variants + 1
    for text in found:
        assert sorted(text.split(", ")) == sorted(tags)
        assert text.split(", ")[:num_kept] == tags[:num_kept]


def test_shuffling_depends_on_seed_and_image_alone() -> None:
    text = ", ".join("abcdefgh")
    spec = ShuffleSpec(num_variants=3, include_original=False)
    other = ShuffleSpec(num_variants=3, include_original=False, seed=1)
    found = shuffled(text, spec, IMAGE)
    assert found == shuffled(text, spec, IMAGE)
    assert len(found) == 3
    assert found != shuffled(text, other, IMAGE)
    assert found != shuffled(text, spec, Digest.of_bytes(b"other"))


def test_variants_are_captions_of_their_own() -> None:
    found, _ = read(
        b"a, b, c",
        shuffle=ShuffleSpec(num_variants=2),
        instance_prompt="sks",
        prepend_instance_prompt=True,
    )
    assert found is not None
    assert found[0] == "sks a, b, c"
    assert len(found) == 3


def test_an_epoch_draws_the_same_caption_again() -> None:
    captions = [str(number) for number in range(100)]
    drawn = [
        drawn_caption(captions, dropout=0.0, image=IMAGE, seed=1, epoch=epoch)
        for epoch in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_captions_are_drawn_evenly_and_dropped_as_often_as_asked() -> None:
    found = Counter(
        drawn_caption(["a", "b"], dropout=0.2, image=IMAGE, seed=0, epoch=epoch)
        for epoch in range(4000)
    )
    assert abs(found[""] - 800) < 100
    assert abs(found["a"] - 1600) < 150

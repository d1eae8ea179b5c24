"""Values are what their text says, and what is wrong is told where it stands."""

from dataclasses import dataclass, field

import pytest
from pydantic import with_config

from diptych.datasets.manifest_text import parse_text
from diptych.datasets.source_spec import STRICT
from diptych.datasets.strict_reading import MAX_TOLD, read_strictly, value_at


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a whole."""

    length: int = 1


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Whole:
    """A value with parts."""

    parts: tuple[Part, ...] = ()
    one: Part | None = None
    names: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the whole."""
        if len(self.parts) > 2:
            raise ValueError("more than two parts")


def refused(text: str, *, with_root: bool = True) -> list[tuple[str, str]]:
    plain = parse_text(text.encode())
    assert read_strictly(Whole, plain, plain.value, with_root=with_root) is None
    return [(found.field, found.description) for found in plain.violations]


def test_a_sound_text_is_its_value() -> None:
    plain = parse_text(b"parts: [{length: 2}, {}]\nnames: {a: 1}")
    found = read_strictly(Whole, plain, plain.value)
    assert found == Whole(parts=(Part(length=2), Part()), names={"a": 1})


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("part: []", "part", "line 1: no such key here; parts is"),
        ("parts:\n- {lenght: 1}", "parts[0].lenght", "line 2: no such key here; length is"),
        ("one: {lengths: 1}", "one.lengths", "line 1: no such key here; length is"),
        ("colour: red", "colour", "line 1: no such key here"),
    ],
)
def test_a_key_that_is_none_is_told_with_what_was_meant(text: str, field: str, said: str) -> None:
    assert refused(text) == [(field, said)]


def test_texts_are_no_numbers() -> None:
    ((field, said),) = refused('one: {length: "2"}')
    assert (field, said) == ("one.length", "line 1: must be a whole number, got '2'")


def test_rules_of_the_whole_can_be_left_to_the_caller() -> None:
    text = "parts: [{}, {}, {}]"
    assert refused(text) == [("manifest", "line 1: more than two parts")]
    assert refused(text, with_root=False) == []


def test_a_value_inside_another_is_told_where_it_stands() -> None:
    plain = parse_text(b"job:\n  set:\n    parts:\n    - {length: x}")
    value = value_at(plain, ("job", "set"))
    assert read_strictly(Whole, plain, value, at=("job", "set")) is None
    assert plain.violations[0].field == "job.set.parts[0].length"
    assert plain.violations[0].description.startswith("line 4:")


def test_of_a_text_full_of_unknown_keys_a_hundred_are_told() -> None:
    assert len(refused("\n".join(f"k{number}: 1" for number in range(1000)))) == MAX_TOLD

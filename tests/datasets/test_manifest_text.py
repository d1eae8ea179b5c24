"""Plain values and their lines, from YAML and from JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets import manifest_text
from diptych.datasets.manifest_text import MAX_TEXT_BYTES, parse_text

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def problems(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [f"{one.field}: {one.description}" for one in parse_text(data).violations]


@given(PLAIN)
def test_json_is_read_as_what_it_says(value: object) -> None:
    assert parse_text(json.dumps(value).encode()).value == value


@given(PLAIN)
def test_json_of_one_line_and_of_many_say_the_same(value: object) -> None:
    text = json.dumps({"a": value, "b": 1})
    assert parse_text(text.encode()).value == parse_text(text.replace("{", "{\n", 1).encode()).value


def test_a_line_of_json_is_read_without_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_text, "_read", lambda *_: None)
    assert parse_text(b'\n {"a": [1, "x"]}\n').value == {"a": [1, "x"]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "a: line 1: the key comes twice"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ('{"a": [' + "1, " * 200_000 + "1]}", "more than 200000 values"),
        ('{"a": ' * 30 + "1" + "}" * 30, "deeper than 24"),
        ('{"a": "\x7f"}', "character 0x7f has no place"),
    ],
    ids=lambda value: value[:12],
)
def test_what_a_line_of_json_may_not_say_is_told(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert problem in found


def test_json_indented_with_tabs_is_read() -> None:
    assert parse_text(b'{\n\t"a":\t[\n\t\t1e-3\n\t]\n}').value == {"a": [1e-3]}


def test_json_escapes_beyond_the_basic_plane_are_one_character() -> None:
    assert parse_text(rb'{"a": "\ud83d\ude00"}').value == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("12", 12),
        ("010", "010"),
        ("0x10", 16),
        ("1:30", "1:30"),
        ("-1.5e3", -1500.0),
        (".5", 0.5),
        ("2026-01-02", "2026-01-02"),
        ("~", None),
        ("", None),
        ("'12'", "12"),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_text(f"a: {text}".encode()).value == {"a": value}


def test_values_remember_their_lines() -> None:
    plain = parse_text(b"a:\n  b: 1\n  c:\n    - x\n    - y\n")
    assert {plain.line(("a", "b")), plain.line(("a", "c", 1)), plain.line(("a", "d"))} == {1, 2, 5}


def test_a_key_that_comes_twice_is_named_with_its_second_line() -> None:
    assert problems("a: 1\nb: 2\na: 3\n") == ["a: line 3: the key comes twice"]


def test_merged_keys_yield_to_a_mappings_own() -> None:
    plain = parse_text(b"a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert plain.value == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "manifest: line 1: the file is empty"),
        ("a: [1\nb: 2", "line 2: not YAML or JSON"),
        ("a: !!python/object:os.system {}", "is not a kind of value here"),
        ("a:\n  b: .inf", "a.b: line 2: .inf is not a finite number"),
        (b"a: 1\nb: \xff", "manifest: line 2: byte 8 is not UTF-8"),
        (b" " * (MAX_TEXT_BYTES + 1), f"the limit is {MAX_TEXT_BYTES}"),
        ("&a [*a]", "deeper than"),
        ("a: " + "1" * 5000, "is not what it claims"),
        ("a: !!int ''", "is not what it claims"),
        ("a: !!bool x", "is not what it claims"),
        ("a: !!timestamp x", "is not what it claims"),
        ("a: !!float x", "is not what it claims"),
        ("[" * 5000, "not YAML or JSON|nested too deep"),
    ],
)
def test_a_text_that_says_nothing_is_refused(text: str | bytes, problem: str) -> None:
    (found,) = problems(text)
    assert any(part in found for part in problem.split("|")), found


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert ["more than" in found for found in problems("\n".join(lines))] == [True]


@pytest.mark.parametrize("first", ["{k: 1}", "{}"])
def test_merges_that_multiply_are_refused(first: str) -> None:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)]
    assert ["more than" in found for found in problems("\n".join(lines))] == [True]

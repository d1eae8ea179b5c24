"""A digest names content; a value has one spelling."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.digest import Digest, canonical_bytes

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), PLAIN))
def test_digest_is_stable_under_key_order(value: dict[str, object]) -> None:
    reversed_value = dict(reversed(value.items()))
    assert Digest.of_value(value) == Digest.of_value(reversed_value)


def test_digest_of_a_file_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"diptych" * 1000)
    assert Digest.of_file(path) == Digest.of_bytes(path.read_bytes())


def test_digest_is_sha256() -> None:
    assert str(Digest.of_bytes(b"x")) == f"sha256:{hashlib.sha256(b'x').hexdigest()}"


def test_known_value_keeps_its_digest() -> None:
    value = {"b": [1, 2.5, None], "a": "ü"}
    assert canonical_bytes(value) == '{"a":"ü","b":[1,2.5,null]}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_refuses_numbers_without_a_spelling(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_bytes([number])


@pytest.mark.parametrize("text", ["", "abc", "G" * 64, "A" * 64])
def test_refuses_text_that_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        Digest(hex=text)


def test_parses_what_it_writes() -> None:
    digest = Digest.of_bytes(b"a")
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize("text", ["", "sha256:", "md5:" + "a" * 64, "sha256:" + "A" * 64])
def test_refuses_to_parse_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"sha256|SHA-256"):
        Digest.parse(text)

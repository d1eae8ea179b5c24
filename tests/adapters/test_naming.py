"""A name is safe wherever names go, and says one thing."""

import pytest

from diptych.adapters.naming import check_name, check_tag, check_tenant, split_reference
from diptych.digest import Digest
from diptych.errors import InvalidRequest

DIGEST = Digest.of_bytes(b"huggy")
UNSAFE_WORDS = ["", "..", "a..b", ".a", "a/b", "a:b", "A", "a\0", "x" * 64, "a" * 10_000]


@pytest.mark.parametrize("name", ["huggy", "adapters/huggy", "a/b/c", "v1.0_x-y", "0"])
def test_takes_a_plain_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "../x", "a/../b", "a//b", "/a", "a/", "a\0b", "A", "a b", "x" * 64, "a" * 10_000),
        *("a/b/c/d", ".hidden", "a..b", "sha256/abc", "a@b", "a:b", "\N{LATIN SMALL LETTER AE}"),
    ],
)
def test_refuses_a_name_that_is_not_plain(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"name: .* is not up to 3 parts"):
        check_name(name)


@pytest.mark.parametrize("word", UNSAFE_WORDS)
def test_refuses_a_tag_that_is_not_plain(word: str) -> None:
    with pytest.raises(InvalidRequest, match=r"tag: .* is not 1 to 63"):
        check_tag(word)


@pytest.mark.parametrize("word", UNSAFE_WORDS)
def test_refuses_a_tenant_that_is_not_plain(word: str) -> None:
    with pytest.raises(InvalidRequest, match=r"tenant: .* is not 1 to 63"):
        check_tenant(word)


def test_takes_a_plain_tag_and_tenant() -> None:
    assert (check_tag("v1.2"), check_tenant("team-a")) == ("v1.2", "team-a")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("huggy", ("huggy", "latest")),
        ("a/b:v1", ("a/b", "v1")),
        (str(DIGEST), DIGEST),
    ],
)
def test_reference_says_a_digest_or_a_name_and_a_tag(
    reference: str, expected: Digest | tuple[str, str]
) -> None:
    assert split_reference(reference) == expected


@pytest.mark.parametrize(
    "reference", ["a:", ":a", "a:b:c", "sha256", "sha256:", "sha256:ab", "sha256:" + "0" * 9999]
)
def test_refuses_a_reference_that_says_neither(reference: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        split_reference(reference)
    assert len(str(caught.value)) < 400

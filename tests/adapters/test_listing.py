"""Pages neither repeat nor lose a name, whatever comes and goes between them."""

import base64
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.adapters.card import Kind
from diptych.adapters.listing import Filter, Page, list_page
from diptych.adapters.naming import Stage
from diptych.adapters.registry import Registry
from diptych.errors import InvalidRequest
from support.shelves import card_of, in_memory, published

NAMES = ["a", "a-b", "a/b", "b", "c.d", "c/d/e"]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return in_memory(tmp_path / "tier")


def names(page: Page) -> list[str]:
    return [entry.name for entry in page.entries]


def all_names(registry: Registry, page_size: int, where: Filter | None = None) -> list[str]:
    page = list_page(registry, where, page_size=page_size)
    found = names(page)
    while page.next_page_token:
        page = list_page(registry, where, page_size=page_size, page_token=page.next_page_token)
        found += names(page)
    return found


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 7, 0])
def test_pages_together_hold_every_name_once(registry: Registry, page_size: int) -> None:
    for name in NAMES:
        published(registry, name, name.encode())
    assert sorted(all_names(registry, page_size)) == sorted(NAMES)


def test_the_last_page_has_no_token(registry: Registry) -> None:
    for name in NAMES:
        published(registry, name, b"same")
    assert list_page(registry, page_size=len(NAMES)).next_page_token == ""


def test_a_tag_is_an_entry_of_its_own(registry: Registry) -> None:
    published(registry, "a", b"1", tag="v1")
    published(registry, "a", b"2", tag="v2")
    assert [(entry.name, entry.tag) for entry in list_page(registry).entries] == [
        ("a", "v1"),
        ("a", "v2"),
    ]


@given(
    before=st.sets(st.sampled_from("abcdefghij"), min_size=1),
    added=st.sets(st.sampled_from("abcdefghij")),
    removed=st.sets(st.sampled_from("abcdefghij")),
    page_size=st.integers(1, 4),
)
@settings(max_examples=50, deadline=None)
def test_what_stays_is_listed_once_whatever_comes_and_goes(
    tmp_path_factory: pytest.TempPathFactory,
    before: set[str],
    added: set[str],
    removed: set[str],
    page_size: int,
) -> None:
    registry = in_memory(tmp_path_factory.getbasetemp() / "tier")
    for name in before:
        published(registry, name, b"1")
    page = list_page(registry, page_size=page_size)
    found = names(page)
    for name in added - before:
        published(registry, name, b"1")
    for name in removed & before:
        registry.remove(name)
    while page.next_page_token:
        page = list_page(registry, page_size=page_size, page_token=page.next_page_token)
        found += names(page)
    assert len(found) == len(set(found))
    assert before - removed <= set(found) <= before | added


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter(), ["one", "other/two", "three"]),
        (Filter(name_prefix="o"), ["one", "other/two"]),
        (Filter(name_prefix="other/"), ["other/two"]),
        (Filter(family="nano"), ["one"]),
        (Filter(stage=Stage.REFINER), ["other/two"]),
        (Filter(kind=Kind.LORA), ["one", "other/two"]),
        (Filter(kind=Kind.LORA, stage=Stage.BASE), ["one"]),
        (Filter(family="sdxl-base"), []),
    ],
)
@pytest.mark.parametrize("page_size", [1, 10])
def test_lists_what_the_filter_takes(
    registry: Registry, where: Filter, expected: list[str], page_size: int
) -> None:
    lora = frozenset({Kind.LORA})
    registry.publish("one", b"1", card_of(b"1", family="nano", kinds=lora))
    registry.publish("other/two", b"2", card_of(b"2", stage=Stage.REFINER, kinds=lora))
    registry.publish("three", b"3", card_of(b"3", kinds=frozenset({Kind.TOKENS})))
    assert all_names(registry, page_size, where) == expected


@pytest.mark.parametrize("prefix", ["../", "a/../b", "/", "a b/"])
def test_prefix_that_begins_no_name_is_refused(registry: Registry, prefix: str) -> None:
    with pytest.raises(InvalidRequest, match=r"name_prefix: .* begins no name"):
        list_page(registry, Filter(name_prefix=prefix))


def test_lists_one_tenant(registry: Registry) -> None:
    published(registry, "a", b"1", tenant="one")
    assert names(list_page(registry, tenant="two")) == []


def test_refuses_a_negative_page_size(registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match="page_size: -1 is negative"):
        list_page(registry, page_size=-1)


@pytest.mark.parametrize("token", ["x", "???", "\N{SNOWMAN}", base64.b64encode(b"[1]").decode()])
def test_refuses_a_token_it_did_not_give(registry: Registry, token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token: is not one that this server gave"):
        list_page(registry, page_token=token)


def test_refuses_a_token_of_another_listing(registry: Registry) -> None:
    for name in NAMES:
        published(registry, name, b"1")
    token = list_page(registry, page_size=1).next_page_token
    with pytest.raises(InvalidRequest, match="page_token: belongs to a listing with another"):
        list_page(registry, Filter(family="nano"), page_token=token)
    with pytest.raises(InvalidRequest, match="page_token: belongs to a listing with another"):
        list_page(registry, tenant="other", page_token=token)


def test_a_token_does_not_show_the_name(registry: Registry) -> None:
    for name in NAMES:
        published(registry, name, b"1")
    assert "a-b" not in list_page(registry, page_size=1).next_page_token


def test_a_name_whose_card_is_lost_is_left_out_and_logged(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    digest = published(registry, "a", b"1")
    card = registry.stores.refs.read(registry.stores.card_key("default", digest))
    assert card is not None
    registry.stores.refs.delete(card.key, expected=card.version)
    with caplog.at_level(logging.WARNING, logger="diptych"):
        assert names(list_page(registry)) == []
    assert "a:latest points at an adapter without a card" in caplog.text

"""A token is what was given for the same listing, to the letter, or none."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diptych.errors import InvalidRequest
from diptych.training.ledger.paging import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    Listing,
    page_limit,
)
from diptych.training.states import JobState

STATES = (JobState.QUEUED, JobState.RUNNING)
LISTING = Listing(tenant="lab", states=STATES, name_prefix="h")
LISTINGS = st.builds(
    Listing,
    tenant=st.sampled_from(["lab", "la", ""]),
    states=st.sets(st.sampled_from(JobState)),
    name_prefix=st.sampled_from(["", "h", "b"]),
)


@given(LISTINGS, st.integers(1, 2**62))
def test_a_token_comes_back_as_its_number(listing: Listing, number: int) -> None:
    assert listing.number_in(listing.token_after(number)) == number


def test_the_order_of_states_does_not_matter() -> None:
    turned = Listing(tenant="lab", states=[*STATES[::-1], *STATES], name_prefix="h")
    assert turned.number_in(LISTING.token_after(3)) == 3


@given(LISTINGS)
@settings(max_examples=30)
def test_another_listing_refuses_the_token(other: Listing) -> None:
    if (other.tenant, set(other.states), other.name_prefix) != ("lab", set(STATES), "h"):
        with pytest.raises(InvalidRequest, match="page_token"):
            other.number_in(LISTING.token_after(3))


@given(st.text("abcXYZ019-_=+/ \0\N{SNOWMAN}"))
def test_made_up_text_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        LISTING.number_in(token)


@given(st.integers(0, 59), st.characters(codec="ascii"))
@example(38, "0")
def test_a_token_with_another_letter_is_refused(place: int, letter: str) -> None:
    token = LISTING.token_after(123456)
    place %= len(token)
    altered = token[:place] + letter + token[place + 1 :]
    if altered != token:
        with pytest.raises(InvalidRequest, match="page_token"):
            LISTING.number_in(altered)


@pytest.mark.parametrize(
    ("asked", "limit"), [(0, DEFAULT_PAGE_SIZE), (1, 1), (10**9, MAX_PAGE_SIZE)]
)
def test_a_page_is_as_large_as_asked_within_the_limit(asked: int, limit: int) -> None:
    assert page_limit(asked) == limit

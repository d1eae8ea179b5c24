"""Pages of jobs neither repeat nor lose one, and a token is good for its own listing alone."""

import base64
import json

import pytest

from diptych.errors import InvalidRequest
from diptych.training.ledger.ledger import Ledger
from diptych.training.states import JobState
from support.ledgers import TENANT, asked, claimed

NAMES = ["a", "ab", "Ab", "a%", "b", "\N{SNOWMAN}", "a_c"]


def names(ledger: Ledger, *, page_size: int, **where: object) -> list[str]:
    """Return the names on all pages."""
    found: list[str] = []
    token = ""
    while True:
        page = ledger.list(tenant=TENANT, page_size=page_size, page_token=token, **where)  # type: ignore[arg-type]
        found += [job.name for job in page.jobs]
        if not (token := page.next_page_token):
            return found


@pytest.mark.parametrize("page_size", [0, 1, 2, 7, 8, 5000])
def test_pages_together_hold_every_job_once_newest_first(ledger: Ledger, page_size: int) -> None:
    for name in NAMES:
        ledger.create(asked(name))
    ledger.create(asked(tenant="other"))
    assert names(ledger, page_size=page_size) == NAMES[::-1]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("a", {"a", "ab", "a%", "a_c"}), ("a%", {"a%"}), ("a_", {"a_c"}), ("\N{SNOWMAN}", None)],
)
def test_a_prefix_is_taken_as_it_is_spelled(
    ledger: Ledger, prefix: str, expected: set[str] | None
) -> None:
    for name in NAMES:
        ledger.create(asked(name))
    assert set(names(ledger, page_size=2, name_prefix=prefix)) == expected or {prefix}


def test_lists_jobs_in_the_states_asked_for(ledger: Ledger) -> None:
    for name in ("a", "b", "c"):
        ledger.create(asked(name))
    ledger.wish(claimed(ledger).job.id, "cancel", tenant=TENANT)
    ended = ledger.create(asked("d"))
    ledger.wish(ended.id, "cancel", tenant=TENANT)
    both = [JobState.PREPARING, JobState.CANCELLED]
    assert names(ledger, page_size=1, states=both) == ["d", "a"]


def test_what_comes_and_goes_between_pages_hides_nothing(ledger: Ledger) -> None:
    ids = [ledger.create(asked(name)).id for name in "abcd"]
    page = ledger.list(tenant=TENANT, page_size=2)
    for job_id in ids[2:]:
        ledger.wish(job_id, "cancel", tenant=TENANT)
        ledger.delete(job_id, tenant=TENANT)
    ledger.create(asked("e"))
    rest = ledger.list(tenant=TENANT, page_size=2, page_token=page.next_page_token)
    assert [job.name for job in rest.jobs] == ["b", "a"]


def test_a_token_is_good_for_its_own_listing_alone(ledger: Ledger) -> None:
    for tenant in (TENANT, TENANT, "other"):
        ledger.create(asked(tenant=tenant))
    token = ledger.list(tenant=TENANT, page_size=1).next_page_token
    with pytest.raises(InvalidRequest, match="page_token: was altered, or belongs"):
        ledger.list(tenant="other", page_token=token)
    with pytest.raises(InvalidRequest, match="page_token: was altered, or belongs"):
        ledger.list(tenant=TENANT, name_prefix="h", page_token=token)


def test_a_token_with_another_number_is_refused(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.create(asked())
    token = ledger.list(tenant=TENANT, page_size=1).next_page_token
    number, seal = json.loads(base64.urlsafe_b64decode(token))
    forged = base64.urlsafe_b64encode(json.dumps([number + 5, seal]).encode()).decode()
    with pytest.raises(InvalidRequest, match="page_token: was altered"):
        ledger.list(tenant=TENANT, page_token=forged)


def test_a_negative_page_size_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="page_size: -1 is negative"):
        ledger.list(tenant=TENANT, page_size=-1)


def test_a_prefix_that_begins_no_name_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="name_prefix: holds a NUL character"):
        ledger.list(tenant=TENANT, name_prefix="a\0")

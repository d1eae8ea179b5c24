"""What is counted or made once holds however many ask at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diptych.errors import DiptychError, JobStateConflict, QuotaExceeded, RequestIdReused
from diptych.training.ledger.ledger import Ledger
from diptych.training.states import JobState
from support.ledgers import TENANT, asked, claimed, states

Ask = Callable[[Ledger], object]


def at_once(opened: Callable[[], Ledger], *asks: Ask) -> list[object]:
    """Return what each call gave, an error of ours being given too; all begin together."""
    ledgers = [opened() for _ in asks]

    def outcome(ledger: Ledger, ask: Ask) -> object:
        try:
            return ask(ledger)
        except DiptychError as error:
            return type(error)

    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(outcome, ledgers, asks))


def create(ledger: Ledger, **changes: object) -> str:
    return ledger.create(asked(**changes)).id  # type: ignore[arg-type]


def test_one_request_makes_one_job(opened: Callable[[], Ledger]) -> None:
    found = at_once(opened, *[partial(create, request_id="r1")] * 5)
    assert len(set(found)) == 1
    assert len(opened().list(tenant=TENANT).jobs) == 1


def test_of_two_specs_under_one_request_id_one_wins(opened: Callable[[], Ledger]) -> None:
    asks = [partial(create, request_id="r1", spec=spec) for spec in ("{}", "[]")]
    found = at_once(opened, *asks)
    assert found.count(RequestIdReused) == 1


def test_a_quota_holds(opened: Callable[[], Ledger]) -> None:
    found = at_once(opened, *[partial(create, max_active=3)] * 6)
    assert found.count(QuotaExceeded) == 3
    assert len(opened().list(tenant=TENANT).jobs) == 3


def test_a_quota_holds_while_jobs_are_resumed(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ended = ledger.create(asked())
    ledger.wish(ended.id, "cancel", tenant=TENANT)
    resume: Ask = lambda other: other.resume(ended.id, tenant=TENANT, max_active=1).id  # noqa: E731
    found = at_once(opened, resume, partial(create, max_active=1))
    assert found.count(QuotaExceeded) == 1


def test_a_job_is_cancelled_or_claimed_and_never_forgotten(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    job = ledger.create(asked())
    cancel: Ask = lambda other: other.wish(job.id, "cancel", tenant=TENANT).wish  # noqa: E731
    at_once(opened, cancel, lambda other: other.claim("a", lease_s=60.0))
    found = ledger.get(job.id, tenant=TENANT)
    assert (found.state, found.wish) in {(JobState.CANCELLED, None), (JobState.PREPARING, "cancel")}


def test_a_job_is_resumed_once(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    job = ledger.create(asked())
    ledger.move(claimed(ledger), JobState.FAILED)
    resume: Ask = lambda other: other.resume(job.id, tenant=TENANT).id  # noqa: E731
    found = at_once(opened, *[resume] * 3)
    assert found.count(JobStateConflict) == 2
    assert states(ledger, job.id) == ["queued", "preparing", "failed", "queued"]

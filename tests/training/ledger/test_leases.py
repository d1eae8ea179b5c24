"""A job has one owner at a time, whoever asks at once; when that one dies, another follows."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import make_url

from diptych.errors import LeaseLost
from diptych.training.ledger import database
from diptych.training.ledger.database import Database, now
from diptych.training.ledger.jobs import Claim
from diptych.training.ledger.leases import next_due, settled
from diptych.training.ledger.ledger import Ledger
from support import ledger_owner
from support.ledgers import TENANT, asked, claimed, numbers, steps

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # noqa: TID251

LATER = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+2 hours')",
    "postgresql": "clock_timestamp() + interval '2 hours'",
}
"""Each database's clock, two hours on."""


def owner(url: str, name: str, *lease_s: str) -> subprocess.Popen[str]:
    """Start another process that claims."""
    program = [sys.executable, ledger_owner.__file__, url, name, *lease_s]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def claim_soon(ledger: Ledger, name: str) -> Claim:
    """Claim the job that is next, once there is one."""
    pause = threading.Event()
    while (claim := ledger.claim(name, lease_s=60.0)) is None:
        pause.wait(0.02)
    return claim


def test_threads_that_claim_at_once_share_the_jobs_out(opened: Callable[[], Ledger]) -> None:
    ledgers = [opened() for _ in range(4)]
    ids = [ledgers[0].create(asked()).id for _ in range(24)]

    def claim_all(ledger: Ledger) -> list[str]:
        return [claim.job.id for claim in iter(lambda: ledger.claim("x", lease_s=60.0), None)]

    with ThreadPoolExecutor(4) as pool:
        found = [job_id for part in pool.map(claim_all, ledgers) for job_id in part]
    assert sorted(found) == sorted(ids)


def test_processes_that_claim_at_once_share_the_jobs_out(ledger: Ledger, url: str) -> None:
    ids = [ledger.create(asked()).id for _ in range(40)]
    processes = [owner(url, name) for name in ("a", "b")]
    found = [process.communicate()[0].split() for process in processes]
    assert sorted(found[0] + found[1]) == sorted(ids)
    owned = {ledger.get(job_id, tenant=TENANT).owner for job_id in found[0]}
    assert owned <= {"a"}


def test_of_many_who_claim_one_lapsed_job_one_gets_it(opened: Callable[[], Ledger]) -> None:
    ledgers = [opened() for _ in range(4)]
    ledgers[0].create(asked())
    stale = claimed(ledgers[0], lease_s=0.0)
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda ledger: ledger.claim("x", lease_s=60.0), ledgers))
    fences = [claim.fence for claim in claims if claim]
    assert fences == [stale.fence + 1]


def test_a_killed_owners_job_is_handed_on_with_all_it_told(ledger: Ledger, url: str) -> None:
    job = ledger.create(asked())
    with owner(url, "first", "0.5") as process:
        assert process.stdout
        said = [int(process.stdout.readline()) for _ in range(5)]
        process.kill()
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    claim = claim_soon(ledger, "second")
    assert (claim.job.id, claim.fence, claim.job.attempt) == (job.id, 2, 2)
    kept = steps(ledger, job.id)
    assert kept == list(range(len(kept)))
    assert len(kept) in {len(said), len(said) + 1}
    assert numbers(ledger, job.id) == list(range(1, len(kept) + 5))


def test_an_owner_that_comes_back_too_late_is_told(ledger: Ledger) -> None:
    ledger.create(asked())
    late = claimed(ledger, "late", lease_s=0.0)
    claim_soon(ledger, "next")
    with pytest.raises(LeaseLost, match="no longer owned by late"):
        ledger.renew(late, lease_s=60.0)


def test_an_owner_whose_job_nobody_took_still_owns_it(ledger: Ledger) -> None:
    ledger.create(asked())
    late = claimed(ledger, lease_s=0.0)
    assert ledger.renew(late, lease_s=60.0).owner == late.owner


def test_a_job_that_another_transaction_holds_is_passed_over(url: str, ledger: Ledger) -> None:
    ids = {ledger.create(asked()).id for _ in range(2)}
    other = Database(make_url(url))
    with other.writing() as connection:
        at = now(connection)
        held = next_due(connection, at)
        assert held
        assert settled(connection, held, at=at) == held
        if connection.dialect.name == "postgresql":
            assert {held.id, claimed(ledger).job.id} == ids
    other.close()


def test_the_databases_clock_says_when_a_lease_has_lapsed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.create(asked())
    claimed(ledger, lease_s=3600.0)
    assert ledger.claim("too early", lease_s=60.0) is None
    for dialect, later in LATER.items():
        monkeypatch.setitem(database._CLOCKS, dialect, later)
    assert claimed(ledger).fence == 2

"""Jobs to ask a ledger for, things to tell it, and what it then holds."""

from sqlalchemy import create_engine, delete

from diptych.training.events import EventKind, Told
from diptych.training.ledger.jobs import Claim, NewJob
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.tables import events, jobs

__all__ = ["TENANT", "asked", "claimed", "numbers", "progress", "states", "steps", "wipe"]

TENANT = "lab"


def asked(
    name: str = "huggy",
    *,
    tenant: str = TENANT,
    spec: str = "{}",
    request_id: str = "",
    priority: int = 0,
    max_active: int | None = None,
) -> NewJob:
    """Return a job to ask for."""
    return NewJob(
        tenant=tenant,
        name=name,
        spec=spec,
        request_id=request_id,
        priority=priority,
        max_active=max_active,
    )


def claimed(ledger: Ledger, owner: str = "a", *, lease_s: float = 60.0) -> Claim:
    """Return the claim of the job whose turn it is."""
    claim = ledger.claim(owner, lease_s=lease_s)
    assert claim
    return claim


def progress(step: int) -> Told:
    """Return what a worker tells after a step."""
    return Told(kind=EventKind.PROGRESS, data={"step": step, "loss": 0.5})


def numbers(ledger: Ledger, job_id: str) -> list[int]:
    """Return the numbers of all of a job's events, in the order they are given in."""
    return [event.number for event in ledger.events(job_id, tenant=TENANT, limit=10**6)]


def states(ledger: Ledger, job_id: str) -> list[str]:
    """Return the states that a job's events tell of."""
    found = ledger.events(job_id, tenant=TENANT, limit=10**6)
    return [str(event.data["state"]) for event in found if event.kind is EventKind.STATE]


def steps(ledger: Ledger, job_id: str) -> list[object]:
    """Return the steps that a job's events tell of."""
    found = ledger.events(job_id, tenant=TENANT, limit=10**6)
    return [event.data["step"] for event in found if event.kind is EventKind.PROGRESS]


def wipe(url: str) -> None:
    """Forget every job."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(delete(events))
        connection.execute(delete(jobs))
    engine.dispose()

"""Run as a program: claims jobs of a ledger until none is left, or owns one until it is killed."""

import sys

from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from support.ledgers import progress

__all__: list[str] = []


def claim_all(ledger: Ledger, owner: str) -> None:
    """Say the id of each job that was claimed."""
    while claim := ledger.claim(owner, lease_s=60.0):
        say(claim.job.id)


def own(ledger: Ledger, owner: str, lease_s: float) -> None:
    """Claim a job and tell of one step after another, each said once it is kept."""
    claim = ledger.claim(owner, lease_s=lease_s)
    assert claim
    for step in range(10**9):
        ledger.append(claim, [(step, progress(step))])
        ledger.renew(claim, lease_s=lease_s)
        say(str(step))


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    url_, owner_, *lease_s_ = sys.argv[1:]
    if lease_s_:
        own(open_ledger(url_), owner_, float(lease_s_[0]))
    else:
        claim_all(open_ledger(url_), owner_)

"""Values that the ledger gives do not follow what happens afterwards."""

import dataclasses

import pytest

from diptych.training.ledger.jobs import Claim
from diptych.training.ledger.ledger import Ledger
from diptych.training.states import JobState
from support.ledgers import asked, claimed


def test_a_claim_holds_the_job_as_it_was_claimed(ledger: Ledger) -> None:
    ledger.create(asked())
    claim = claimed(ledger)
    ledger.move(claim, JobState.RUNNING)
    assert claim.job.state is JobState.PREPARING


def test_a_claim_cannot_be_altered(ledger: Ledger) -> None:
    ledger.create(asked())
    claim = claimed(ledger)
    assert isinstance(claim, Claim)
    with pytest.raises(dataclasses.FrozenInstanceError):
        claim.fence = 9  # type: ignore[misc]

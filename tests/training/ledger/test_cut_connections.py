"""Whatever moment a connection is cut at, what was told is there once, in order."""

import threading

from diptych.bench.postgres import PostgresServer
from diptych.errors import LedgerUnavailable
from diptych.training.ledger.jobs import Claim
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from diptych.training.states import JobState
from support.ledgers import TENANT, asked, claimed, numbers, progress, states, steps

NUM_STEPS, NUM_CUTS = 60, 20


class Teller:
    """Tells of steps, again and again until each is kept; counts how often it was cut off."""

    def __init__(self, ledger: Ledger, claim: Claim) -> None:
        self.num_failures = 0
        self._ledger, self._claim = ledger, claim

    def tell(self, is_enough: threading.Event) -> None:
        """Tell of steps until it is enough, two at a time, so that they overlap."""
        step = 0
        while not is_enough.is_set() or step < NUM_STEPS:
            told = [(step, progress(step)), (step + 1, progress(step + 1))]
            try:
                self._ledger.append(self._claim, told)
            except LedgerUnavailable:
                self.num_failures += 1
            else:
                step += 1


def test_nothing_is_lost_or_doubled(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    ledger = open_ledger(postgres.url(name))
    job = ledger.create(asked())
    teller, is_enough = Teller(ledger, claimed(ledger)), threading.Event()
    thread = threading.Thread(target=teller.tell, args=[is_enough])
    thread.start()
    while teller.num_failures < NUM_CUTS and thread.is_alive():
        postgres.cut(name)
    is_enough.set()
    thread.join()
    kept = steps(ledger, job.id)
    assert kept == list(range(len(kept)))
    assert len(kept) > NUM_STEPS
    assert numbers(ledger, job.id) == list(range(1, len(kept) + 3))
    ledger.close()


def test_a_move_whose_answer_was_lost_may_be_made_again(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    ledger = open_ledger(postgres.url(name))
    job = ledger.create(asked())
    claim = claimed(ledger)
    ledger.move(claim, JobState.RUNNING)
    postgres.cut(name)
    assert ledger.move(claim, JobState.RUNNING).state is JobState.RUNNING
    assert states(ledger, job.id) == ["queued", "preparing", "running"]
    assert ledger.renew(claim, lease_s=60.0).id == ledger.get(job.id, tenant=TENANT).id
    ledger.close()

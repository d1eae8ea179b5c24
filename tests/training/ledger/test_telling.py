"""What a worker tells is kept once, in order, whoever tells it again."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from diptych.training.events import EventKind, Told
from diptych.training.ledger.ledger import Ledger
from diptych.training.states import JobState
from support.ledgers import TENANT, asked, claimed, numbers, progress, steps

TEXT = 'NUL \0, a quote ", a snowman \N{SNOWMAN}, an emoji \N{WOMAN}\N{ZERO WIDTH JOINER}'


def told(*sequences: int) -> list[tuple[int, Told]]:
    return [(sequence, progress(sequence)) for sequence in sequences]


def test_events_are_numbered_in_the_order_they_are_told_in(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    assert ledger.append(claim, told(5, 3)) == 4
    assert ledger.append(claim, told(9)) == 5
    assert (numbers(ledger, job.id), steps(ledger, job.id)) == ([1, 2, 3, 4, 5], [5, 3, 9])


def test_what_is_told_again_is_there_already(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    ledger.append(claim, told(1, 2))
    assert ledger.append(claim, told(1, 2, 2, 3, 3)) == 5
    assert ledger.append(claim, told(3)) == 5
    assert ledger.append(claim, []) == 5
    assert steps(ledger, job.id) == [1, 2, 3]


def test_each_attempt_tells_its_own(ledger: Ledger) -> None:
    job = ledger.create(asked())
    ledger.append(claimed(ledger, lease_s=0.0), told(1))
    claim = claimed(ledger)
    ledger.append(claim, told(1))
    ledger.append(claim, told(1, 2), attempt=1)
    found = ledger.events(job.id, tenant=TENANT)
    kept = [(event.attempt, event.data["step"]) for event in found if "step" in event.data]
    assert kept == [(1, 1), (2, 1), (1, 2)]


def test_an_event_comes_back_as_it_was_told(ledger: Ledger) -> None:
    job = ledger.create(asked())
    data = {"text": TEXT, "list": [1, 0.1, None, True, {"a": {}}], "large": 2**60}
    ledger.append(claimed(ledger), [(0, Told(kind=EventKind.WARNING, data=data))])
    event = ledger.events(job.id, tenant=TENANT)[-1]
    assert (event.kind, event.attempt, event.data) == (EventKind.WARNING, 1, data)


@pytest.mark.parametrize(
    ("after", "limit", "expected"), [(0, 2, [1, 2]), (2, 500, [3, 4, 5]), (4, 1, [5]), (5, 9, [])]
)
def test_events_are_read_from_any_number_on(
    ledger: Ledger, after: int, limit: int, expected: list[int]
) -> None:
    job = ledger.create(asked())
    ledger.append(claimed(ledger), told(1, 2, 3))
    found = ledger.events(job.id, tenant=TENANT, after=after, limit=limit)
    assert [event.number for event in found] == expected


def test_instants_of_events_do_not_go_back(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    for sequence in range(5):
        ledger.append(claim, told(sequence))
    at = [event.at for event in ledger.events(job.id, tenant=TENANT)]
    assert at == sorted(at)


def test_two_who_tell_at_once_leave_no_gap_and_no_double(opened: Callable[[], Ledger]) -> None:
    ledgers = opened(), opened()
    job = ledgers[0].create(asked())
    claim = claimed(ledgers[0])

    def tell(ledger: Ledger) -> None:
        for first in range(0, 40, 2):
            ledger.append(claim, told(first, first + 1, first + 2))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tell, ledgers))
    assert numbers(ledgers[0], job.id) == list(range(1, 44))
    assert steps(ledgers[0], job.id) == list(range(41))


def test_telling_and_moving_at_once_leaves_no_gap(opened: Callable[[], Ledger]) -> None:
    ledgers = opened(), opened()
    job = ledgers[0].create(asked())
    claim = claimed(ledgers[0])
    with ThreadPoolExecutor(2) as pool:
        telling = [pool.submit(ledgers[0].append, claim, told(step)) for step in range(10)]
        moving = pool.submit(ledgers[1].move, claim, JobState.RUNNING)
        wishing = pool.submit(ledgers[1].wish, job.id, "pause", tenant=TENANT)
    assert moving.result().state is JobState.RUNNING
    assert wishing.result().wish == "pause"
    assert all(future.result() for future in telling)
    assert numbers(ledgers[0], job.id) == list(range(1, 14))

"""What a worker tells, as its owner finds it."""

import json
import math
import threading
from pathlib import Path

import pytest

from diptych.errors import StoreFull
from diptych.training.events import EventKind
from diptych.training.reporting import Reporter, Silence
from diptych.training.tailing import EventTail
from diptych.training.task import AttemptFolder, Outcome
from support.full_disk import files_no_larger_than


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    found = AttemptFolder(job_dir=tmp_path, attempt=1)
    found.path.mkdir(parents=True)
    return found


def test_every_event_is_a_line_in_order(folder: AttemptFolder) -> None:
    reporter = Reporter(folder)
    reporter.tell(EventKind.PROGRESS, {"step": 1, "lr": {"unet": 1e-4}})
    reporter.warn("HOT", "it is\nwarm")
    lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
    assert lines == [
        {"kind": "progress", "data": {"step": 1, "lr": {"unet": 1e-4}}},
        {"kind": "warning", "data": {"reason": "HOT", "message": "it is\nwarm"}},
    ]


def test_numbers_that_are_none_are_spelt_null(folder: AttemptFolder) -> None:
    Reporter(folder).tell(EventKind.PROGRESS, {"loss": math.nan, "lr": [math.inf]})
    assert json.loads(folder.events.read_text())["data"] == {"loss": None, "lr": [None]}


def test_telling_is_a_sign_of_life(folder: AttemptFolder) -> None:
    Reporter(folder).warn("A", "b")
    before = folder.heartbeat.stat().st_mtime_ns
    Reporter(folder).beat()
    assert folder.heartbeat.stat().st_mtime_ns >= before


@pytest.mark.parametrize(
    ("text", "wish"), [("cancel", "cancel"), ("pause\n", "pause"), ("dance", None), (None, None)]
)
def test_a_wish_is_one_of_those_there_are(
    text: str | None, wish: str | None, folder: AttemptFolder
) -> None:
    if text is not None:
        folder.wish.write_text(text)
    assert Reporter(folder).wish() == wish


@pytest.mark.parametrize(
    "outcome",
    [Outcome(ending="succeeded", result={"name": "huggy"}), Outcome(ending="preempted")],
    ids=["with a result", "without"],
)
def test_an_outcome_comes_back_whole(outcome: Outcome, folder: AttemptFolder) -> None:
    Reporter(folder).end(outcome)
    assert Outcome.from_json(folder.outcome.read_text()) == outcome


def test_a_full_disk_is_told_as_what_it_is(folder: AttemptFolder) -> None:
    with files_no_larger_than(100), pytest.raises(StoreFull):
        Reporter(folder).warn("LONG", "x" * 1000)


def test_a_line_begins_anew_behind_one_that_another_writer_left_unfinished(
    folder: AttemptFolder,
) -> None:
    folder.events.write_bytes(b'{"kind": "prog')
    Reporter(folder).warn("A", "b")
    Reporter(folder).warn("C", "d")
    told = EventTail(folder.events).read()
    assert [(number, one.data["reason"]) for number, one in told] == [(2, "A"), (3, "C")]


def test_a_worker_and_its_mate_tell_whole_lines_at_once(folder: AttemptFolder) -> None:
    def tell(reporter: Reporter) -> None:
        for number in range(200):
            reporter.warn("A", str(number) * 50)

    threads = [
        threading.Thread(target=tell, args=(Reporter(one),))
        for one in (folder, folder.of_mate("refiner"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(EventTail(folder.events).read()) == 400


def test_a_mate_that_has_ended_leaves_no_heartbeat(folder: AttemptFolder) -> None:
    mate = folder.of_mate("refiner")
    Reporter(mate).beat()
    assert mate.heartbeat.exists()
    Reporter(mate).end(Outcome(ending="succeeded"))
    assert not mate.heartbeat.exists()
    assert not folder.outcome.exists()


def test_other_processes_say_nothing(folder: AttemptFolder) -> None:
    silence = Silence()
    silence.tell(EventKind.WARNING, {})
    silence.warn("A", "b")
    silence.beat()
    assert silence.wish() is None
    assert list(folder.path.iterdir()) == []

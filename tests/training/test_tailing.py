"""Events are read once their line is whole, and again until they are passed on."""

from pathlib import Path

import pytest

from diptych.training.events import EventKind, Told
from diptych.training.tailing import EventTail, event_line, log_tail

ONE = Told(kind=EventKind.WARNING, data={"reason": "A", "message": "zwölf\r\x85"})
TWO = Told(kind=EventKind.PROGRESS, data={"step": 2})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_file_that_is_not_there_has_no_events(path: Path) -> None:
    assert EventTail(path).read() == []


def test_lines_are_numbered_from_one(path: Path) -> None:
    path.write_bytes(event_line(ONE) + event_line(TWO))
    assert EventTail(path).read() == [(1, ONE), (2, TWO)]


def test_half_a_line_waits_for_its_end(path: Path) -> None:
    line = event_line(TWO)
    path.write_bytes(event_line(ONE) + line[:5])
    tail = EventTail(path)
    assert tail.read() == [(1, ONE)]
    tail.done()
    assert tail.read() == []
    path.write_bytes(event_line(ONE) + line)
    assert tail.read() == [(2, TWO)]


def test_what_was_not_passed_on_is_read_again(path: Path) -> None:
    path.write_bytes(event_line(ONE))
    tail = EventTail(path)
    assert tail.read() == tail.read() == [(1, ONE)]


def test_end_is_told(path: Path) -> None:
    path.write_bytes(event_line(ONE))
    tail = EventTail(path)
    tail.read()
    assert not tail.is_at_end
    tail.done()
    tail.read()
    assert tail.is_at_end


def test_line_that_is_no_event_is_passed_over_and_keeps_its_number(path: Path) -> None:
    path.write_bytes(b'{"kind": "song"}\n[]\nnonsense\n' + event_line(ONE))
    assert EventTail(path).read() == [(4, ONE)]


def test_number_that_is_none_is_none(path: Path) -> None:
    path.write_bytes(b'{"kind": "progress", "data": {"loss": NaN}}\n')
    assert EventTail(path).read() == [(1, Told(kind=EventKind.PROGRESS, data={"loss": None}))]


def test_long_file_is_read_in_pieces(path: Path) -> None:
    long = Told(kind=EventKind.WARNING, data={"message": "x" * 300_000})
    path.write_bytes(event_line(long) * 5)
    tail = EventTail(path)
    numbers = [number for number, _ in tail.read()]
    tail.done()
    assert numbers + [number for number, _ in tail.read()] == [1, 2, 3, 4, 5]


def test_tail_of_a_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x\n" * 5000 + "KeyError: 'a'\n")
    assert log_tail(tmp_path / "log").endswith("x | KeyError: 'a'")
    assert "\n" not in log_tail(tmp_path / "log")


def test_log_that_is_not_there_has_no_tail(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "log") == ""

"""Benchmarks print a table, write the same numbers as JSON, and end as their result says."""

import json
from pathlib import Path

import pytest
import typer
from rich.table import Table

from diptych.cli.measuring import Bar, counted, fail_unless, show
from diptych.cli.report import Report


@pytest.fixture
def report() -> Report:
    return Report(as_json=False)


def test_numbers_are_written_beside_the_table(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    show(report, Table(), {"ratio": 2.0}, path)
    assert json.loads(path.read_text()) == {"ratio": 2.0}


def test_nothing_is_written_unless_asked_for(report: Report, tmp_path: Path) -> None:
    show(report, Table(), {}, None)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_promise_is_a_failure() -> None:
    fail_unless(holds=True)
    with pytest.raises(typer.Exit):
        fail_unless(holds=False)


def test_items_pass_in_their_order(report: Report) -> None:
    assert list(counted(report, [2, 1], "counting")) == [2, 1]


def test_a_bar_counts_and_goes_away(report: Report) -> None:
    bar = Bar(report, "counting")
    bar.advance()
    bar.close()

"""A table of what became of disturbed jobs."""

import io

from rich.console import Console

from diptych.bench.fault_tables import faults_as_json, faults_table
from support.found_faults import found


def test_every_harm_has_its_row() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(faults_table(found(unlike=4)))
    text = console.export_text()
    assert "worker 2" in text
    assert "unlike the undisturbed run's" in text
    assert "4" in text


def test_json_says_whether_all_is_well() -> None:
    assert faults_as_json(found())["holds"] is True
    assert faults_as_json(found(overlapped=1))["holds"] is False

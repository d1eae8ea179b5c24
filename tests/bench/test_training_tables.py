"""The table and the JSON hold what was measured."""

import json

from rich.console import Console

from diptych.bench.throughput import Pairs
from diptych.bench.training_speed import TrainingSpeed, TrainingSpeedConfig
from diptych.bench.training_tables import training_as_json, training_table

FOUND = TrainingSpeed(
    config=TrainingSpeedConfig(),
    encoding=Pairs(ours_s=(2.0,), theirs_s=(4.0,)),
    remembered=Pairs(ours_s=(2.0,), theirs_s=(1.0,)),
    warm_s=(9.0, 3.0),
)


def test_table_says_rates_and_ratios() -> None:
    console = Console(width=200, record=True)
    console.print(training_table(FOUND))
    text = console.export_text()
    assert all(word in text for word in ("50.0", "100.0", "2.00x", "0.50x", ">= 1.5x", "9.0, then"))


def test_json_says_whether_promises_hold() -> None:
    plain = json.loads(json.dumps(training_as_json(FOUND)))
    assert (plain["over_encoding"], plain["over_remembered"], plain["holds"]) == (2.0, 0.5, False)

"""The table and the JSON hold what was measured."""

import json

from rich.console import Console

from diptych.bench.throughput import Pairs
from diptych.bench.training_device import DeviceCase, DeviceCost, DeviceReport, StepCost
from diptych.bench.training_speed import TrainingSpeed, TrainingSpeedConfig
from diptych.bench.training_tables import (
    device_as_json,
    device_line,
    device_table,
    training_as_json,
    training_table,
)

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


def test_device_table_says_rates_shares_and_ratios() -> None:
    device = "NVIDIA H100 80GB HBM3"
    ours = StepCost(step_s=(0.5,), peak_bytes=3 << 30, ceiling_flops=200e12, device=device)
    theirs = StepCost(step_s=(1.0,), peak_bytes=4 << 30, ceiling_flops=200e12, device=device)
    case = DeviceCase(method="lora", batch_size=4, compile=True)
    cost = DeviceCost(case=case, flops=10e12, ours=ours, theirs=theirs)
    report = DeviceReport(architecture="sdxl", precision="bf16", costs=(cost,))
    console = Console(width=250, record=True)
    console.print(device_table(report))
    text = console.export_text()
    words = ("LoRA 16, compiled", "500.0", "8.00", "3.0", "8.1%", "40.0%", "4.00", "2.00x")
    assert all(word in text for word in words), text
    assert json.loads(json.dumps(device_as_json(report)))["derived"][0]["ratio"] == 2.0
    assert device_line(cost) == (
        "LoRA 16, compiled, batch 4: 500.0 ms, 8.00 images/s, 3.0 GiB, MFU 8.1%, "
        "diffusers' loop 4.00 images/s, 2.00x"
    )

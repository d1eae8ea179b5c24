"""Every measurement of adapters can be read by people and by programs."""

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from diptych.bench.adapter_churn import Churn
from diptych.bench.adapter_device import AdapterDevice, DeviceConfig
from diptych.bench.adapter_parity import AdaptedParity, AdapterParity
from diptych.bench.adapter_speed import AdapterSpeed, SpeedConfig
from diptych.bench.adapter_tables import (
    adapters_as_json,
    churn_table,
    device_table,
    parity_of_adapters_table,
    speed_table,
)
from diptych.bench.throughput import Pairs
from diptych.bench.ticks import Tick

PARITY = AdapterParity(
    sets=(AdaptedParity(title="LoCon", against="diffusers", difference=2e-3, effect=0.5),),
    num_steps=4,
    largest_tick=Tick(expert="base", num_rows=2, num_adapter_sets=1, seconds=0.1),
)
CHURN = Churn(
    num_operations=10,
    counts={"merge": 7},
    refused={"ADAPTER_IN_USE": 3},
    before_bytes=2**20,
    after_bytes=2**20,
    weights_kept=True,
    picture_kept=True,
    num_graphs=0,
    num_slots=4,
    slots_free=4,
    num_lines=128,
    lines_usable=0,
)
SPEED = AdapterSpeed(
    config=SpeedConfig(),
    batches={"attention": Pairs(ours_s=(1.5,), theirs_s=(1.0,))},
    resident=Pairs(ours_s=(1.0,), theirs_s=(4.0,)),
    loading=Pairs(ours_s=(1.0,), theirs_s=(8.0,)),
)
DEVICE = AdapterDevice(
    architecture="nano",
    device="cpu",
    dtype="float32",
    config=DeviceConfig(architecture="nano"),
    plain_step_s=0.1,
    mixed_step_s=0.15,
    stayed_step_s=0.15,
    switched_step_s=0.15,
    attach_s=0.02,
    cold_s=0.1,
    num_recorded=0,
)


def shown(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("measured", "key", "value"),
    [
        (PARITY, "largest", 2e-3),
        (CHURN, "holds", False),
        (SPEED, "over_loading", 8.0),
        (DEVICE, "switch_s", 0.0),
    ],
)
def test_a_program_gets_what_follows_from_the_numbers(
    measured: AdapterParity | Churn | AdapterSpeed | AdapterDevice, key: str, value: object
) -> None:
    assert json.loads(json.dumps(adapters_as_json(measured)))[key] == value


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (parity_of_adapters_table(PARITY), ["LoCon", "differs", "1 of 1"]),
        (churn_table(CHURN), ["10 operations", "lost", "+0.00%", "ADAPTER_IN_USE"]),
        (speed_table(SPEED), ["rank 16 of attention", "1.50x", "64 requests", "8.00x"]),
        (device_table(DEVICE), ["1.50x", "20.0", "<= 150"]),
    ],
)
def test_a_person_gets_the_numbers_and_what_is_required(table: Table, words: list[str]) -> None:
    text = shown(table)
    assert [word for word in words if word not in text] == []

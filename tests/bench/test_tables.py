"""Every measurement can be read by people and by programs."""

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from diptych.bench.concurrency import Independence
from diptych.bench.expert_merge import ExpertMergeReport, Spent
from diptych.bench.memory import Memory
from diptych.bench.merge import MergeReport, MethodReport, Side
from diptych.bench.parity import Parity
from diptych.bench.steps import Curve, Painting, StepsReport
from diptych.bench.tables import (
    as_json,
    expert_merge_table,
    independence_table,
    memory_table,
    merge_table,
    parity_table,
    steps_table,
    throughput_table,
)
from diptych.bench.throughput import Pairs, Throughput

PAIRS = Pairs(ours_s=(1.0,), theirs_s=(3.0,))
THROUGHPUT = Throughput(num_requests=32, many=PAIRS, single=PAIRS, bare=PAIRS)
MEMORY = Memory(
    num_requests=10,
    num_cancelled=20,
    before_bytes=2**20,
    after_bytes=2**20,
    num_slots=4,
    slots_free=3,
)
STEPS = StepsReport(
    architecture="nano",
    device="cpu",
    dtype="float32",
    ceiling_flops=2e12,
    curves=(Curve(expert="base", num_images=2, step_s=0.5, ceiling_share=0.25),),
    paintings=(Painting(name="one", num_images=1, seconds=2.0, theirs_s=3.0),),
)
SIDE = Side(seconds=2.0, peak_bytes=2**20, error=0.5, least_error=0.5, sum_error=0.6)
EXPERTS = ExpertMergeReport(
    architecture="sdxl",
    method="ties",
    num_experts=2,
    unet_bytes=int(4.78 * 2**30),
    spent=Spent(seconds=60.0, peak_bytes=3 * 2**30),
)
MERGE = MergeReport(
    architecture="sdxl",
    num_layers=560,
    num_adapters=4,
    rank=16,
    methods=(MethodReport(method="ties", theirs=SIDE, ours=SIDE),),
)
INDEPENDENCE = Independence(differences=(1e-6, 2e-6))


def shown(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("measured", "key", "value"),
    [
        (THROUGHPUT, "throughput_ratio", 3.0),
        (MEMORY, "holds", False),
        (STEPS, "images_per_s", {"one": 0.5}),
        (INDEPENDENCE, "largest", 2e-6),
        (MERGE, "speedup", {"ties": 1.0}),
    ],
)
def test_a_program_gets_what_follows_from_the_numbers(
    measured: Throughput | Memory | StepsReport | Independence, key: str, value: object
) -> None:
    assert json.loads(json.dumps(as_json(measured)))[key] == value


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (throughput_table(THROUGHPUT), ["32 mixed requests", "3.00x", ">= 2.0x"]),
        (memory_table(MEMORY), ["leaked", "+0.00%"]),
        (merge_table(MERGE), ["ties, seconds", "1.0x", "as near", "560 layers"]),
        (expert_merge_table(EXPERTS), ["ties of 2 sdxl", "3.00", "<= 4", "4.78"]),
        (steps_table(STEPS), ["base step", "25.0%", "2.00 TFLOP/s", "0.500", "0.333", "1.50x"]),
        (independence_table(INDEPENDENCE), ["2 unlike requests", "2.0e-06"]),
        (
            parity_table([Parity(name="seed", latent_difference=2e-3, equal_pixels=1.0)]),
            ["seed", "differs", "100.000%"],
        ),
    ],
)
def test_a_person_gets_the_numbers_and_what_is_required(table: Table, words: list[str]) -> None:
    text = shown(table)
    assert [word for word in words if word not in text] == []

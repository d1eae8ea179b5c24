"""The whole comparison runs, and every promise must hold."""

from pathlib import Path

import pytest

from diptych.bench.adapter_speed import AdapterSpeed, SpeedConfig, measure_adapters
from diptych.bench.direct import Direct
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving
from diptych.bench.steps import load_architecture
from diptych.bench.throughput import Pairs

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:Already found a `peft_config`:UserWarning",
)


def pairs(theirs_s: float) -> Pairs:
    return Pairs(ours_s=(1.0,), theirs_s=(theirs_s,))


@pytest.mark.parametrize(
    ("batch", "resident", "loading", "holds"),
    [
        (0.81, 3.1, 6.1, True),
        (0.79, 3.1, 6.1, False),
        (0.81, 2.9, 6.1, False),
        (0.81, 3.1, 5.9, False),
    ],
)
def test_every_promise_must_hold(
    batch: float, resident: float, loading: float, holds: bool
) -> None:
    found = AdapterSpeed(
        config=SpeedConfig(),
        batches={"attention": pairs(batch)},
        resident=pairs(resident),
        loading=pairs(loading),
    )
    assert found.holds is holds


def test_the_whole_comparison_runs(server: Serving, reference: Reference, tmp_path: Path) -> None:
    config = SpeedConfig(
        rank=2,
        num_images=2,
        num_steps=2,
        num_requests=2,
        request_steps=3,
        num_adapters=2,
        repeats=1,
    )
    direct = Direct.of(load_architecture("nano", random_weights=False, device="cpu"))
    found = measure_adapters(
        server, reference, direct, config=config, folder=tmp_path, progress=lambda: None
    )
    assert set(found.batches) == {"attention", "transformers"}
    assert min(found.resident.ratio, found.loading.ratio, *found.batch_ratios.values()) > 0

"""Unlike sets at once are compared with each alone, and the engine says that they met."""

import pytest

from diptych.bench.adapter_parity import AdaptedParity, AdapterParity, compare_adapters
from diptych.bench.adapter_sets import AdapterSet, Used
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving
from diptych.bench.ticks import Tick

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:Already found a `peft_config`:UserWarning",
)

SETS = (
    AdapterSet(title="none"),
    AdapterSet(title="token and LoRA", uses=(Used(name="pivotal-12", scale=0.5),)),
    AdapterSet(title="over inputs", uses=(Used(name="dora-inputs-16"),), in_weights=True),
)


def test_unlike_sets_in_one_batch_are_what_each_is_elsewhere(
    server: Serving, reference: Reference
) -> None:
    found = compare_adapters(server, reference, sets=SETS, num_steps=6)
    assert [one.holds for one in found.sets] == [True, True, True]
    assert [one.effect > 0.01 for one in found.sets] == [False, True, True]
    assert found.largest_tick.num_adapter_sets > 1


@pytest.mark.parametrize(
    ("difference", "met", "holds"), [(0, 1, True), (2e-3, 1, False), (0, 0, False)]
)
def test_sets_must_be_near_and_must_have_met(difference: float, met: int, holds: bool) -> None:
    one = AdaptedParity(title="a", against="diffusers", difference=difference, effect=1.0)
    tick = Tick(expert="base", num_rows=2, num_adapter_sets=met, seconds=0.1)
    assert AdapterParity(sets=(one,), num_steps=2, largest_tick=tick).holds is holds

"""What an adapter was made for survives being a plain map."""

import json
from functools import partial

import pytest
from hypothesis import given

from diptych.adapters.adapter import MadeFor
from diptych.adapters.purpose import made_for_from_plain, made_for_to_plain
from diptych.errors import AdapterInvalid
from support.made_adapters import made_fors

REFUSE = partial(AdapterInvalid, "here")


@given(made_fors())
def test_is_read_back_through_json(made_for: MadeFor) -> None:
    plain = json.loads(json.dumps(made_for_to_plain(made_for)))
    assert made_for_from_plain(plain, REFUSE) == made_for


def test_leaves_out_what_is_not_known() -> None:
    assert made_for_to_plain(MadeFor()) == {"stage": "base"}


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({"colour": "red"}, "'colour', which is not known"),
        ({"family": 3}, "family 3, expected a text"),
        ({"stage": []}, "expected base, refiner or both"),
        ({"zero_snr": "yes"}, "zero_snr 'yes'"),
        ({"timestep_range": [1]}, r"timesteps \[1\]"),
        ({"timestep_range": [5, 1]}, r"timesteps \[5, 1\]"),
        ({"timestep_range": [0, 1e3]}, "timesteps"),
    ],
)
def test_refuses_what_it_does_not_know(plain: dict[str, object], problem: str) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        made_for_from_plain(plain, REFUSE)

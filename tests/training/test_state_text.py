"""States of optimizers there and back, to the bit."""

import json
import math
from typing import Any

import pytest
import torch

from diptych.errors import CheckpointInvalid
from diptych.training.state_text import flatten, restore


def there_and_back(state: object) -> Any:
    tensors, text = flatten(state)
    return restore(tensors, json.loads(json.dumps(text)))


def test_an_optimizers_state_comes_back_to_the_bit() -> None:
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
    optimizer = torch.optim.AdamW([{"params": parameters[:1]}, {"params": parameters[1:]}])
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state, found = optimizer.state_dict(), there_and_back(optimizer.state_dict())
    assert found["param_groups"] == state["param_groups"]
    assert found["state"].keys() == {0, 1}
    assert found["state"][1]["exp_avg_sq"].equal(state["state"][1]["exp_avg_sq"])


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.1 + 0.2, 1e-300, math.inf, "text", [1, (2, 3)], {1: "a", "1": "b"}],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert there_and_back(value) == value


def test_a_dtype_comes_back() -> None:
    assert there_and_back({"dtype": torch.bfloat16}) == {"dtype": torch.bfloat16}


def test_what_has_no_spelling_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"groups\.0 is a object"):
        flatten({"groups": [object()]})


def test_a_tensor_that_is_missing_is_told() -> None:
    _, text = flatten({"a": torch.ones(1)})
    with pytest.raises(CheckpointInvalid):
        restore({}, text)

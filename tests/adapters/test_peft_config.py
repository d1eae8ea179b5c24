"""Scales are read from a configuration as PEFT itself reads them."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from diptych.adapters.adapter import LowRank
from diptych.adapters.peft_config import config_of, parse_config
from diptych.errors import AdapterInvalid

REFUSE = partial(AdapterInvalid, "here")
MODULES = ("up.0.to_q", "up.0.to_k", "up.10.to_q", "down.to_q")
PATTERNS = ("to_q", "up.0.to_q", "0.to_q", "^up.0.to_k", "10.to_q", r"down\.to_q$")


def layers() -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict({"to_q": nn.Linear(3, 3), "to_k": nn.Linear(3, 3)})

    return nn.ModuleDict({"up": nn.ModuleList([block() for _ in range(11)]), "down": block()})


def low_rank(rank: int, alpha: float) -> LowRank:
    return LowRank(down=torch.zeros(rank, 3), up=torch.zeros(3, rank), alpha=alpha)


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 9), max_size=3),
    st.integers(1, 9),
    st.booleans(),
)
def test_scales_are_those_of_peft(pattern: dict[str, int], alpha: int, use_rslora: bool) -> None:
    fields: Any = {"lora_alpha": alpha, "alpha_pattern": pattern, "use_rslora": use_rslora}
    config = LoraConfig(r=4, target_modules=list(MODULES), **fields)
    model: Any = inject_adapter_in_model(config, layers())
    parsed = parse_config(fields, REFUSE)
    for name in MODULES:
        scaling = model.get_submodule(name).scaling["default"]
        assert parsed.alpha_of(name, 4) / 4 == pytest.approx(scaling)


@given(
    st.dictionaries(
        st.sampled_from(MODULES),
        st.builds(low_rank, st.integers(1, 4), st.floats(-9, 9)),
        min_size=1,
    )
)
def test_what_is_written_says_every_rank_and_alpha(low_ranks: dict[str, LowRank]) -> None:
    fields = config_of(low_ranks)
    parsed = parse_config(fields, REFUSE)
    ranks = fields["rank_pattern"]
    assert isinstance(ranks, dict)
    for name, own in low_ranks.items():
        assert parsed.alpha_of(name, own.rank) == own.alpha
        assert ranks.get(name, fields["r"]) == own.rank


def test_a_pattern_may_leave_out_the_level_that_only_some_encoders_have() -> None:
    parsed = parse_config({"alpha_pattern": {"^encoder.layers.0.fc1": 2}}, REFUSE)
    assert parsed.alpha_of("text_model.encoder.layers.0.fc1", 8) == 2


def test_peft_itself_has_alpha_8_where_none_is_said() -> None:
    assert parse_config({}, REFUSE).alpha_of("x", 4) == LoraConfig().lora_alpha


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"peft_type": "LOHA"}, "method 'LOHA'; only LORA is read"),
        ({"lora_bias": True}, "lora_bias on, which is not served"),
        ({"use_qalora": True}, "use_qalora on"),
        ({"layer_replication": [[0, 1]]}, "layer_replication on"),
        ({"lora_alpha": "8"}, "lora_alpha '8', expected a number"),
        ({"lora_alpha": True}, "expected a number"),
        ({"lora_alpha": 10**400}, "expected a number"),
        ({"alpha_pattern": [1]}, r"alpha_pattern \[1\], expected a map"),
        ({"alpha_pattern": {"a": None}}, "alpha_pattern None"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "expected a module's name or its end"),
        ({"alpha_pattern": {"a" * 10_000 + "|": 1}}, "aaa"),
    ],
)
def test_refuses_what_is_not_served(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(AdapterInvalid, match=problem) as raised:
        parse_config(fields, REFUSE)
    assert len(str(raised.value)) < 300

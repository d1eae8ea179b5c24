"""What cannot be trained together is said before anything starts."""

from typing import Any

import pytest

from diptych.training.spec import AdapterSpec, TextEncoderSpec
from diptych.training.trainable_rules import trainable_violations
from support.trained_jobs import job

FULL_TEXT = TextEncoderSpec(method="full")
LORA_TEXT = TextEncoderSpec(method="lora")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, []),
        ({"method": "full", "text_encoders": FULL_TEXT}, []),
        ({"method": "full", "text_encoders": LORA_TEXT, "stage": "both", "boundary": 0.5}, []),
        ({"method": "full", "kind": "regularisation"}, ["dataset.datasets[0].kind"]),
        ({"kind": "regularisation", "text_encoders": LORA_TEXT}, []),
        ({"text_encoders": FULL_TEXT}, ["text_encoders.method"]),
        ({"text_encoders": LORA_TEXT, "stage": "both"}, []),
        ({"method": "full", "adapter": AdapterSpec(rank=4)}, ["adapter"]),
        ({"adapter": AdapterSpec(start_from="night", dropout=0.1)}, []),
        (
            {"adapter": AdapterSpec(start_from="night", rank=4, alpha=2.0, init="gaussian")},
            ["adapter.rank", "adapter.alpha", "adapter.init"],
        ),
        ({"name": "../huggy"}, ["name"]),
        ({"name": "a/b/c"}, []),
        ({"name": "a/b/c", "method": "full", "stage": "both"}, ["name"]),
    ],
)
def test_says_which_fields_do_not_go_together(changes: dict[str, Any], fields: list[str]) -> None:
    assert [one.field for one in trainable_violations(job(**changes))] == fields

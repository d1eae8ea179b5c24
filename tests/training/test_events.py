"""Events are plain values with words that clients and ledgers keep."""

import json

from diptych.training.events import EventKind, Told


def test_kinds_have_the_words_that_ledgers_keep() -> None:
    assert [kind.value for kind in EventKind] == [
        "state",
        "prepared",
        "progress",
        "checkpoint",
        "picture",
        "warning",
        "error",
        "result",
    ]


def test_what_is_told_is_plain_json() -> None:
    told = Told(kind=EventKind.PROGRESS, data={"loss": 0.5})
    assert json.loads(json.dumps({"kind": told.kind, **told.data})) == {
        "kind": "progress",
        "loss": 0.5,
    }

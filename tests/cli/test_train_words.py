"""What happens to a job has words for people and plain values for programs."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.cli.train_words import (
    bytes_text,
    duration_text,
    event_mapping,
    event_text,
    result_lines,
    sparkline,
)
from diptych.clients.training_values import (
    CheckpointWritten,
    Event,
    JobFault,
    JobProgress,
    JobResult,
    PicturePainted,
    Prepared,
    StateChange,
    TimestepHistogram,
    TrainingEvent,
    Unknown,
    Warned,
)

PROGRESS = JobProgress(
    expert="base",
    step=3,
    num_steps=9,
    epoch=0.5,
    loss=math.nan,
    learning_rates={"unet": 1e-4, "text_encoder": 5e-5},
    grad_norm=0.5,
    images_per_s=2.0,
    memory_bytes=0,
)
RESULT = JobResult(
    name="huggy",
    digests={"base": "sha256:aa"},
    timesteps={
        "base": TimestepHistogram(first_timestep=350, last_timestep=999, bin_width=500, bins=(2, 4))
    },
)
EVENTS: dict[str, Event] = {
    "state": StateChange(state="running", why=""),
    "prepared": Prepared(num_images=1, num_embeddings=2, num_encoded=1, num_parameters=3),
    "progress": PROGRESS,
    "checkpoint": CheckpointWritten(expert="base", step=3, digest="d", size_bytes=2048),
    "picture": PicturePainted(digest="sha256:aa", label="a cat", step=3),
    "warning": Warned(reason="ODD", message="it is odd"),
    "error": JobFault(reason="BAD", message="it is bad", is_users=True),
    "result": RESULT,
    "unknown": Unknown(),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_has_words_and_a_kind(kind: str) -> None:
    told = TrainingEvent(
        number=1, at=datetime(2026, 1, 1, tzinfo=UTC), attempt=1, event=EVENTS[kind]
    )
    assert event_mapping(told)["kind"] == kind
    assert "\n" not in event_text(EVENTS[kind])


def test_programs_get_json_whatever_the_loss_is() -> None:
    told = TrainingEvent(number=1, at=datetime(2026, 1, 1, tzinfo=UTC), attempt=1, event=PROGRESS)
    text = json.dumps(event_mapping(told), allow_nan=False)
    assert json.loads(text)["loss"] == "nan"


def test_learning_rates_are_told_apart_where_they_differ() -> None:
    assert "lr unet 1.00e-04, text_encoder 5.00e-05" in event_text(PROGRESS)


def test_a_result_tells_digests_and_timesteps() -> None:
    assert result_lines(RESULT) == [
        "base: sha256:aa",
        "base: 6 samples of timesteps 350..999  ▁█",
    ]


@given(st.lists(st.floats(), max_size=200), st.integers(1, 50))
def test_a_sparkline_is_as_wide_as_asked_at_most(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([1, 2, 3], "▁▅█"),
        ([2, 2], "▁▁"),
        ([1, math.nan, 8], "▁ █"),
        ([], ""),
        ([1e308, -1e308], "█▁"),
        ([0.0, 5e-324], "▁▁"),
    ],
)
def test_bars_rise_with_values(values: list[float], line: str) -> None:
    assert sparkline(values, 8) == line


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.2, "5 s"), (65, "1 min 05 s"), (3 * 3600 + 65, "3 h 01 min")]
)
def test_times_are_as_people_say_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(12, "12 B"), (2048, "2 KiB"), (3 * 2**20, "3 MiB"), (1.5 * 2**30, "1.5 GiB")],
)
def test_sizes_have_the_unit_that_suits_them(size: float, text: str) -> None:
    assert bytes_text(size) == text

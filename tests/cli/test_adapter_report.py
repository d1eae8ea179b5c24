"""An adapter is shown to people in a few words and to programs whole."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from diptych.cli.adapter_report import as_mapping, place_of, show_adapter, tell_files, tell_merge
from diptych.cli.report import Report
from diptych.clients.adapter_messages import read_info
from diptych.clients.adapter_values import LayerError, MergeResult
from diptych.v1 import adapters_pb2 as pb

INFO = read_info(
    pb.AdapterInfo(
        name="huggy",
        tag="latest",
        kinds=["dora", "lora"],
        tokens=["<s0>"],
        residency=pb.AdapterResidency(tier="device", pinned=True, num_requests=2),
    )
)


def test_place_is_told_in_words() -> None:
    assert place_of(INFO) == "device, kept, 2 running"


def test_time_is_text_in_json() -> None:
    created_at = as_mapping(INFO)["created_at"]
    assert datetime.fromisoformat(created_at) == datetime(1970, 1, 1, tzinfo=UTC)


def test_words_of_the_prompt_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_adapter(Report(as_json=False), INFO)
    assert "prompt words: <s0>" in capsys.readouterr().out


def test_error_without_bound_is_none_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    layer = LayerError(target="unet.conv_in", relative_error=float("inf"), rank=4)
    result = MergeResult(
        adapter=INFO, relative_error=0.5, layers=(layer,), renamed_tokens={"b <s0>": "<s1>"}
    )
    tell_merge(Report(as_json=True), result)
    assert '"relative_error": null' in capsys.readouterr().out


def test_files_are_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell_files(Report(as_json=False), [Path("a"), Path("b")])
    assert capsys.readouterr().out == "a\nb\n"

"""What a run needs travels with its manifest, and all that came of a warm-up comes back."""

import pytest

from diptych.clients.embedding_values import WarmCall
from diptych.clients.warm_messages import warm_request, warmed, whole
from diptych.digest import Digest
from diptych.embedding_cache.answers import warm_result
from diptych.embedding_cache.ports import WarmOutcome
from diptych.errors import InvalidRequest, ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import types_pb2

DATASET = Digest.of_bytes(b"dataset")


def test_what_a_run_needs_is_asked_for() -> None:
    call = WarmCall(
        manifest="a: 1",
        stages=["refiner"],
        batch_size=4,
        num_epochs=3,
        long_prompt="chunk",
        force=True,
    )
    assert warm_request(call, "r") == pb.WarmDatasetRequest(
        request_id="r",
        manifest="a: 1",
        stages=[pb.ENCODER_STAGE_REFINER],
        batch_size=4,
        num_epochs=3,
        long_prompt=types_pb2.LONG_PROMPT_CHUNK,
        force=True,
    )


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (WarmCall(manifest="\ud800"), "manifest"),
        (WarmCall(manifest="", batch_size=1 << 40), "batch_size"),
        (WarmCall(manifest="", num_epochs=1 << 40), "num_epochs"),
        (WarmCall(manifest="", long_prompt="forget"), "long_prompt"),
    ],
)
def test_value_that_no_message_holds_is_named(call: WarmCall, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        warm_request(call, "r")


def test_everything_that_came_of_it_arrives() -> None:
    outcome = WarmOutcome(
        dataset=DATASET,
        num_total=9,
        num_present=4,
        num_encoded=3,
        failures=(("a.png", "is cut"),),
        num_cut=2,
        left_out=(("one images", "made on demand"),),
    )
    result = warmed(pb.WarmDatasetResponse(result=warm_result(outcome)), None)
    assert result is not None
    assert (result.dataset, result.num_total, result.num_present) == (DATASET, 9, 4)
    assert (result.num_encoded, result.num_failed, result.num_cut) == (3, 1, 2)
    assert result.failures == {"a.png": "is cut"}
    assert result.left_out == {"one images": "made on demand"}


def test_progress_is_told() -> None:
    heard: list[tuple[int, int]] = []
    message = pb.WarmDatasetResponse(progress=pb.WarmProgress(num_done=1, num_total=2))
    assert warmed(message, lambda done, total: heard.append((done, total))) is None
    assert heard == [(1, 2)]


def test_stream_without_its_result_is_an_error() -> None:
    with pytest.raises(ResponseCorrupt):
        whole(None)

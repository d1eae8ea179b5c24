"""Events reach the wire whole: images in pieces, latents with what a later call needs."""

import dataclasses
import hashlib

import numpy as np
import pytest

from diptych.errors import EngineFault
from diptych.inference.hosted import Hosted
from diptych.inference.replies import CHUNK_BYTES, capabilities, event_messages
from diptych.inference.trajectory import (
    AdapterState,
    AdapterWaited,
    Completed,
    Expert,
    Failed,
    ImageReady,
    ImageRequest,
    OutputFormat,
    Preview,
    Queued,
    StageSettings,
    Started,
    Stepped,
    Timings,
)
from diptych.v1 import types_pb2

STAGE = StageSettings(prompt="a red circle")


@pytest.fixture
def request_() -> ImageRequest:
    return ImageRequest(
        request_id="r", width=128, height=64, seed=7, boundary=0.65, base=STAGE, refiner=STAGE
    )


def test_queued_tells_the_resolved_request(request_: ImageRequest, hosted: Hosted) -> None:
    (message,) = event_messages(Queued(position=2, predicted_s=1.5), request_, hosted)
    resolved = message.queued.resolved
    assert (message.queued.position, resolved.seed, resolved.width) == (2, 7, 128)
    assert resolved.boundary == 0.65


def test_absent_boundary_stays_absent(request_: ImageRequest, hosted: Hosted) -> None:
    whole = dataclasses.replace(request_, boundary=None)
    (message,) = event_messages(Queued(position=0, predicted_s=0.0), whole, hosted)
    assert not message.queued.resolved.HasField("boundary")


def test_step_is_told_with_its_expert(request_: ImageRequest, hosted: Hosted) -> None:
    event = Stepped(image_index=1, step=3, num_steps=9, expert=Expert.REFINER)
    (message,) = event_messages(event, request_, hosted)
    assert message.progress.expert == types_pb2.EXPERT_REFINER


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Started(), "started"),
        (Preview(image_index=0, step=1, data=b"x", width=8, height=8), "preview"),
        (Completed(), "completed"),
    ],
)
def test_event_becomes_one_message(
    event: Started | Preview | Completed, kind: str, request_: ImageRequest, hosted: Hosted
) -> None:
    (message,) = event_messages(event, request_, hosted)
    assert message.WhichOneof("event") == kind


def test_adapter_is_told_as_the_request_called_it(request_: ImageRequest, hosted: Hosted) -> None:
    waited = AdapterWaited(name="huggy", digest="sha256:aa", state=AdapterState.FETCHING)
    (message,) = event_messages(waited, request_, hosted)
    told = message.adapter
    assert (told.adapter, told.digest) == ("huggy", "sha256:aa")
    assert told.state == types_pb2.ADAPTER_STATE_FETCHING


def test_failure_is_no_message(request_: ImageRequest, hosted: Hosted) -> None:
    assert list(event_messages(Failed(error=EngineFault("x")), request_, hosted)) == []


def test_image_comes_in_pieces_that_join_to_its_digest(
    request_: ImageRequest, hosted: Hosted
) -> None:
    data = bytes(range(256)) * (CHUNK_BYTES // 100)
    event = ImageReady(image_index=0, seed=7, width=128, height=64, data=data)
    header, *chunks = event_messages(event, request_, hosted)
    joined = b"".join(chunk.image_chunk.data for chunk in chunks)
    assert header.image_header.sha256 == hashlib.sha256(joined).digest()
    assert header.image_header.size_bytes == len(joined)


def test_only_the_last_piece_is_short(request_: ImageRequest, hosted: Hosted) -> None:
    event = ImageReady(image_index=0, seed=7, width=8, height=8, data=b"x" * (CHUNK_BYTES + 1))
    _, *chunks = event_messages(event, request_, hosted)
    assert [len(chunk.image_chunk.data) for chunk in chunks] == [CHUNK_BYTES, 1]


def latents_ready() -> ImageReady:
    latents = np.arange(4 * 8 * 16, dtype=np.float32).reshape(4, 8, 16)
    return ImageReady(image_index=0, seed=7, width=128, height=64, latents=latents, draws=5)


def test_latents_at_a_boundary_say_what_refine_needs(
    request_: ImageRequest, hosted: Hosted
) -> None:
    cut = dataclasses.replace(request_, refiner=None, output=OutputFormat.LATENTS)
    header, _ = event_messages(latents_ready(), cut, hosted)
    latents = header.image_header.latents
    assert (list(latents.shape), latents.family, latents.boundary) == ([4, 8, 16], "nano", 0.65)
    assert (latents.num_steps, latents.num_draws) == (40, 5)


def test_finished_latents_say_so(request_: ImageRequest, hosted: Hosted) -> None:
    whole = dataclasses.replace(request_, output=OutputFormat.LATENTS)
    header, _ = event_messages(latents_ready(), whole, hosted)
    assert header.image_header.latents.boundary == 1.0


def test_latents_travel_little_endian_and_row_major(request_: ImageRequest, hosted: Hosted) -> None:
    whole = dataclasses.replace(request_, output=OutputFormat.LATENTS)
    event = latents_ready()
    _, chunk = event_messages(event, whole, hosted)
    values = np.frombuffer(chunk.image_chunk.data, "<f4").reshape(4, 8, 16)
    np.testing.assert_array_equal(values, event.latents)


def test_timings_are_told_at_the_end(request_: ImageRequest, hosted: Hosted) -> None:
    timings = Timings(base_s=1.5, num_texts_encoded=3, num_texts_cached=1)
    (message,) = event_messages(Completed(timings=timings), request_, hosted)
    told = message.completed.timings
    assert (told.base_s, told.num_texts_encoded, told.num_texts_cached) == (1.5, 3, 1)


def test_capabilities_name_experts_limits_and_defaults(hosted: Hosted) -> None:
    told = capabilities(hosted)
    assert [expert.expert for expert in told.experts] == [
        types_pb2.EXPERT_BASE,
        types_pb2.EXPERT_REFINER,
    ]
    assert (told.limits.max_num_steps, told.defaults.boundary) == (100, 0.65)


def test_server_without_refiner_has_no_default_boundary(hosted: Hosted) -> None:
    told = capabilities(dataclasses.replace(hosted, refiner=None))
    assert not told.defaults.HasField("boundary")

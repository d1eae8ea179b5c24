"""Chunks become pictures only if everything a server promised is true."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.clients.assembly import MAX_PICTURE_BYTES, Assembler
from diptych.clients.events import (
    AdapterProgress,
    Completed,
    Event,
    Picture,
    Preview,
    Progress,
    Queued,
    Started,
)
from diptych.errors import ResponseCorrupt
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import types_pb2 as types


def assembled(messages: list[pb.ImageEvent]) -> list[Event]:
    """Return the events of a whole stream."""
    assembler = Assembler()
    events = [assembler.feed(message) for message in messages]
    assembler.finish()
    return [event for event in events if event is not None]


def test_adapter_on_its_way_is_told() -> None:
    assembler = Assembler()
    assembler.feed(pb.ImageEvent(queued=pb.Queued(resolved=pb.Resolved(num_images=1))))
    progress = pb.AdapterProgress(
        adapter="huggy", digest="sha256:aa", state=types.ADAPTER_STATE_READY
    )
    told = assembler.feed(pb.ImageEvent(adapter=progress))
    assert told == AdapterProgress(adapter="huggy", digest="sha256:aa", state="ready")


def picture(messages: list[pb.ImageEvent]) -> Picture:
    """Return the one picture of a stream."""
    (found,) = [event for event in assembled(messages) if isinstance(event, Picture)]
    return found


def latents_image(values: np.ndarray, shape: tuple[int, ...]) -> list[pb.ImageEvent]:
    data = values.astype("<f4").tobytes()
    header = pb.ImageHeader(
        size_bytes=len(data),
        sha256=hashlib.sha256(data).digest(),
        latents=types.LatentsHeader(
            shape=shape, family="nano", boundary=0.65, num_steps=40, num_draws=26
        ),
    )
    return [
        pb.ImageEvent(image_header=header),
        pb.ImageEvent(image_chunk=pb.ImageChunk(data=data)),
    ]


def test_stream_becomes_events_in_order(stream: Any, image: Any) -> None:
    kinds = [type(event) for event in assembled(stream(image(0), image(1)))]
    assert kinds == [Queued, Started, Picture, Picture, Completed]


@given(data=st.binary(min_size=1, max_size=200), piece_bytes=st.integers(1, 60))
def test_any_pieces_give_the_bytes_back(data: bytes, piece_bytes: int) -> None:
    header = pb.ImageHeader(size_bytes=len(data), sha256=hashlib.sha256(data).digest())
    pieces = [
        pb.ImageEvent(image_chunk=pb.ImageChunk(offset_bytes=at, data=data[at : at + piece_bytes]))
        for at in range(0, len(data), piece_bytes)
    ]
    queued = pb.Queued(resolved=pb.Resolved(num_images=1))
    messages = [
        pb.ImageEvent(queued=queued),
        pb.ImageEvent(image_header=header),
        *pieces,
        pb.ImageEvent(completed=pb.Completed()),
    ]
    assert picture(messages).data == data


def test_picture_has_what_its_header_said(stream: Any, image: Any) -> None:
    found = picture(stream(image(0)))
    assert (found.seed, found.width, found.height, found.media_type) == (7, 128, 64, "image/png")


def test_encoded_picture_has_no_latents(stream: Any, image: Any) -> None:
    assert picture(stream(image(0))).latents is None


def test_latents_arrive_as_an_array(stream: Any) -> None:
    values = np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3)
    found = picture(stream(latents_image(values, (4, 2, 3))))
    np.testing.assert_array_equal(found.latents, values)


def test_latents_arrive_with_their_provenance(stream: Any) -> None:
    found = picture(stream(latents_image(np.zeros((4, 2, 3)), (4, 2, 3))))
    provenance = (found.family, found.boundary, found.num_steps, found.num_draws)
    assert provenance == ("nano", 0.65, 40, 26)


@pytest.mark.parametrize("shape", [(4, 2, 2), (4, 6), (-4, -2, 3), (0, 2, 3), ()])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...], stream: Any) -> None:
    with pytest.raises(ResponseCorrupt, match="latents of shape"):
        assembled(stream(latents_image(np.zeros((4, 2, 3)), shape)))


def test_resolved_boundary_is_none_where_there_is_no_cut(stream: Any) -> None:
    queued = assembled(stream())[0]
    assert isinstance(queued, Queued)
    assert queued.resolved.boundary is None


def test_progress_names_its_expert(stream: Any) -> None:
    progress = pb.Progress(image_index=1, step=3, num_steps=9, expert=types.EXPERT_REFINER)
    messages = stream([pb.ImageEvent(progress=progress)])
    found = Assembler()
    found.feed(messages[0])
    expected = Progress(image_index=1, step=3, num_steps=9, expert="refiner")
    assert found.feed(messages[2]) == expected


def test_preview_carries_its_picture() -> None:
    preview = pb.Preview(image_index=1, step=3, data=b"jpeg", width=16, height=8)
    found = Assembler()
    found.feed(pb.ImageEvent(queued=pb.Queued()))
    expected = Preview(image_index=1, step=3, data=b"jpeg", width=16, height=8)
    assert found.feed(pb.ImageEvent(preview=preview)) == expected


def test_event_of_an_unknown_kind_is_skipped() -> None:
    assert Assembler().feed(pb.ImageEvent()) is None


def test_changed_byte_is_found(stream: Any, image: Any) -> None:
    messages = stream(image(0))
    messages[3].image_chunk.data = bytes(len(messages[3].image_chunk.data))
    with pytest.raises(ResponseCorrupt, match="digest"):
        assembled(messages)


@pytest.mark.parametrize("dropped", range(9))
def test_stream_that_lacks_a_message_is_refused(dropped: int) -> None:
    data = bytes(3000)
    header = pb.ImageHeader(size_bytes=len(data), sha256=hashlib.sha256(data).digest())
    second = pb.ImageHeader()
    second.CopyFrom(header)
    second.image_index = 1
    pieces = [pb.ImageChunk(offset_bytes=at, data=data[at : at + 1500]) for at in (0, 1500)]
    others = [
        pb.ImageChunk(image_index=1, offset_bytes=at, data=data[at : at + 1000])
        for at in (0, 1000, 2000)
    ]
    messages = [
        pb.ImageEvent(queued=pb.Queued(resolved=pb.Resolved(num_images=2))),
        pb.ImageEvent(image_header=header),
        *(pb.ImageEvent(image_chunk=piece) for piece in pieces),
        pb.ImageEvent(image_header=second),
        *(pb.ImageEvent(image_chunk=piece) for piece in others),
        pb.ImageEvent(completed=pb.Completed()),
    ]
    del messages[dropped]
    with pytest.raises(ResponseCorrupt):
        assembled(messages)


def test_message_after_the_end_is_refused(stream: Any, image: Any) -> None:
    with pytest.raises(ResponseCorrupt, match="after the end"):
        assembled([*stream(image(0)), pb.ImageEvent(started=pb.Started())])


def test_call_admitted_twice_is_refused(stream: Any, image: Any) -> None:
    messages = stream(image(0))
    with pytest.raises(ResponseCorrupt, match="twice"):
        assembled([messages[0], *messages])


def test_image_delivered_twice_is_refused(stream: Any, image: Any) -> None:
    with pytest.raises(ResponseCorrupt, match="not expected"):
        assembled(stream(image(0), image(0)))


def test_image_beyond_those_asked_for_is_refused(stream: Any, image: Any) -> None:
    with pytest.raises(ResponseCorrupt, match="not expected"):
        assembled(stream(image(1)))


@pytest.mark.parametrize("size_bytes", [0, -1, MAX_PICTURE_BYTES + 1])
def test_absurd_size_is_refused_before_any_byte(size_bytes: int, stream: Any) -> None:
    header = pb.ImageHeader(size_bytes=size_bytes)
    with pytest.raises(ResponseCorrupt, match="claims"):
        assembled(stream([pb.ImageEvent(image_header=header)]))


def test_image_inside_another_is_refused(stream: Any, image: Any) -> None:
    first, second = image(0), image(1)
    with pytest.raises(ResponseCorrupt, match="begins inside"):
        assembled(stream(first[:2], second))


def test_more_bytes_than_announced_are_refused(stream: Any, image: Any) -> None:
    messages = image(0)
    messages[0].image_header.size_bytes -= 1
    with pytest.raises(ResponseCorrupt, match="exceeds"):
        assembled(stream(messages))

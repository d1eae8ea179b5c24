"""Events to messages: what the engine says, as a caller hears it."""

import hashlib
from collections.abc import Iterator
from typing import Final

from diptych.inference.hosted import Hosted, HostedExpert
from diptych.inference.trajectory import (
    AdapterState,
    AdapterWaited,
    Completed,
    Event,
    Expert,
    Failed,
    ImageReady,
    ImageRequest,
    OutputFormat,
    Preview,
    Queued,
    Started,
    Stepped,
    Timings,
)
from diptych.v1 import inference_pb2, types_pb2

__all__ = ["CHUNK_BYTES", "capabilities", "event_messages"]

CHUNK_BYTES: Final = 1 << 20
"""Bytes of an image in one message."""

EXPERTS: Final = {Expert.BASE: types_pb2.EXPERT_BASE, Expert.REFINER: types_pb2.EXPERT_REFINER}

ADAPTER_STATES: Final = {
    AdapterState.QUEUED: types_pb2.ADAPTER_STATE_QUEUED,
    AdapterState.FETCHING: types_pb2.ADAPTER_STATE_FETCHING,
    AdapterState.READY: types_pb2.ADAPTER_STATE_READY,
    AdapterState.FAILED: types_pb2.ADAPTER_STATE_FAILED,
}

MEDIA_TYPES: Final = {
    OutputFormat.PNG: "image/png",
    OutputFormat.WEBP: "image/webp",
    OutputFormat.JPEG: "image/jpeg",
    OutputFormat.LATENTS: "application/octet-stream",
}


def event_messages(
    event: Event, request: ImageRequest, hosted: Hosted
) -> Iterator[inference_pb2.ImageEvent]:
    """Yield the messages that tell ``event``: several for an image, none for a failure."""
    match event:
        case Queued():
            yield inference_pb2.ImageEvent(queued=_queued(event, request))
        case AdapterWaited():
            yield inference_pb2.ImageEvent(
                adapter=inference_pb2.AdapterProgress(
                    adapter=event.name, digest=event.digest, state=ADAPTER_STATES[event.state]
                )
            )
        case Started():
            yield inference_pb2.ImageEvent(started=inference_pb2.Started())
        case Stepped():
            yield inference_pb2.ImageEvent(
                progress=inference_pb2.Progress(
                    image_index=event.image_index,
                    step=event.step,
                    num_steps=event.num_steps,
                    expert=EXPERTS[event.expert],
                )
            )
        case Preview():
            yield inference_pb2.ImageEvent(
                preview=inference_pb2.Preview(
                    image_index=event.image_index,
                    step=event.step,
                    data=event.data,
                    width=event.width,
                    height=event.height,
                )
            )
        case ImageReady():
            yield from _image(event, request, hosted)
        case Completed():
            yield inference_pb2.ImageEvent(
                completed=inference_pb2.Completed(
                    request_id=request.request_id, timings=_timings(event.timings)
                )
            )
        case Failed():
            return


def capabilities(hosted: Hosted) -> inference_pb2.GetCapabilitiesResponse:
    """Return what this server can do."""
    limits = hosted.limits
    has_pair = hosted.base is not None and hosted.refiner is not None
    return inference_pb2.GetCapabilitiesResponse(
        version=hosted.version,
        experts=[_expert(e) for e in (hosted.base, hosted.refiner) if e is not None],
        limits=inference_pb2.Limits(
            min_side=limits.min_side,
            max_side=limits.max_side,
            max_pixels=limits.max_pixels,
            size_multiple=limits.size_multiple,
            max_num_steps=limits.max_steps,
            max_num_images=limits.max_images,
            max_prompt_bytes=limits.max_prompt_bytes,
            max_inline_bytes=limits.max_inline_bytes,
            max_adapters=limits.max_adapters,
            max_adapter_rank=limits.max_adapter_rank,
        ),
        defaults=inference_pb2.Defaults(
            width=hosted.width,
            height=hosted.height,
            num_steps=hosted.num_steps,
            solver=hosted.solver,
            boundary=hosted.boundary if has_pair else None,
        ),
        solvers=hosted.solvers,
        spacings=hosted.spacings,
        sigma_schedules=hosted.sigma_schedules,
        outputs=[
            types_pb2.OUTPUT_FORMAT_PNG,
            types_pb2.OUTPUT_FORMAT_WEBP,
            types_pb2.OUTPUT_FORMAT_JPEG,
            types_pb2.OUTPUT_FORMAT_LATENTS,
        ],
    )


def _queued(event: Queued, request: ImageRequest) -> inference_pb2.Queued:
    return inference_pb2.Queued(
        position=event.position,
        predicted_s=event.predicted_s,
        resolved=inference_pb2.Resolved(
            request_id=request.request_id,
            seed=request.seed,
            num_images=request.num_images,
            num_steps=request.num_steps,
            width=request.width,
            height=request.height,
            solver=request.solver,
            boundary=request.boundary,
        ),
    )


def _image(
    event: ImageReady, request: ImageRequest, hosted: Hosted
) -> Iterator[inference_pb2.ImageEvent]:
    """Yield an image's header, then its bytes in pieces of ``CHUNK_BYTES``."""
    data, latents = event.data, None
    if event.latents is not None:
        data = event.latents.astype("<f4").tobytes()
        latents = _latents_header(event, event.latents.shape, request, hosted)
    yield inference_pb2.ImageEvent(
        image_header=inference_pb2.ImageHeader(
            image_index=event.image_index,
            seed=event.seed,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
            media_type=MEDIA_TYPES[request.output],
            width=event.width,
            height=event.height,
            latents=latents,
        )
    )
    for offset in range(0, len(data), CHUNK_BYTES):
        yield inference_pb2.ImageEvent(
            image_chunk=inference_pb2.ImageChunk(
                image_index=event.image_index,
                offset_bytes=offset,
                data=data[offset : offset + CHUNK_BYTES],
            )
        )


def _latents_header(
    event: ImageReady, shape: tuple[int, ...], request: ImageRequest, hosted: Hosted
) -> types_pb2.LatentsHeader:
    """Return what a later ``Refine`` needs to know about these latents."""
    expert = hosted.base if request.base is not None else hosted.refiner
    stops_at_boundary = request.refiner is None and request.boundary is not None
    return types_pb2.LatentsHeader(
        shape=shape,
        family=expert.family if expert is not None else "",
        boundary=request.boundary if stops_at_boundary else 1.0,
        num_steps=request.num_steps,
        num_draws=event.draws,
    )


def _timings(timings: Timings) -> types_pb2.Timings:
    return types_pb2.Timings(
        queue_s=timings.queue_s,
        encode_s=timings.encode_s,
        base_s=timings.base_s,
        refiner_s=timings.refiner_s,
        decode_s=timings.decode_s,
        total_s=timings.total_s,
        num_texts_encoded=timings.num_texts_encoded,
        num_texts_cached=timings.num_texts_cached,
    )


def _expert(hosted: HostedExpert) -> inference_pb2.ExpertInfo:
    return inference_pb2.ExpertInfo(
        expert=EXPERTS[hosted.expert],
        family=hosted.family,
        model=hosted.model,
        prediction_type=hosted.prediction_type,
        default_guidance_scale=hosted.guidance_scale,
        remote=hosted.remote,
    )

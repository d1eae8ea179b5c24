"""A message becomes a request with every default filled in, or all its violations at once."""

import dataclasses
import io
import math

import numpy as np
import pytest
from PIL import Image

from diptych.errors import ExpertMissing, InvalidRequest
from diptych.inference.hosted import Hosted
from diptych.inference.trajectory import (
    ImageInput,
    ImageRequest,
    LatentsInput,
    OutputFormat,
    SolverHistory,
)
from diptych.inference.wire import generate_request, refine_request, request_id_of
from diptych.v1.inference_pb2 import GenerateRequest, ImageSource, RefineRequest
from diptych.v1.types_pb2 import (
    OUTPUT_FORMAT_LATENTS,
    SOLVER_HISTORY_CARRY,
    CropOffset,
    Latents,
    LatentsHeader,
    ScheduleInterval,
    Size,
    StageSettings,
)

REQUEST_ID = "6a9c3a0e-3f0e-4b58-9a55-0d5b0f8a7a11"


def good(**fields: object) -> GenerateRequest:
    message = GenerateRequest(base=StageSettings(prompt="a red circle"))
    message.MergeFrom(GenerateRequest(**fields))  # type: ignore[arg-type]
    return message


def picture(width: int = 128, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def latents(shape: tuple[int, ...] = (2, 4, 16, 8), **header: object) -> Latents:
    return Latents(
        header=LatentsHeader(shape=shape, family="nano", **header),  # type: ignore[arg-type]
        data=np.zeros(shape, "<f4").tobytes(),
    )


def refinement(**fields: object) -> RefineRequest:
    message = RefineRequest(refiner=StageSettings(prompt="a red circle"))
    message.MergeFrom(RefineRequest(**fields))  # type: ignore[arg-type]
    return message


def generated(message: GenerateRequest, hosted: Hosted) -> ImageRequest:
    return generate_request(message, hosted, request_id=REQUEST_ID)


def refined(message: RefineRequest, hosted: Hosted) -> ImageRequest:
    return refine_request(message, hosted, request_id=REQUEST_ID)


def converted(message: GenerateRequest | RefineRequest, hosted: Hosted) -> ImageRequest:
    if isinstance(message, GenerateRequest):
        return generated(message, hosted)
    return refined(message, hosted)


def fields_refused(message: GenerateRequest | RefineRequest, hosted: Hosted) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        converted(message, hosted)
    return [violation.field for violation in caught.value.violations]


def without_refiner(hosted: Hosted) -> Hosted:
    return dataclasses.replace(hosted, refiner=None)


def with_remote_refiner(hosted: Hosted) -> Hosted:
    assert hosted.refiner is not None
    return dataclasses.replace(hosted, refiner=dataclasses.replace(hosted.refiner, remote=True))


def test_absent_fields_become_the_servers_defaults(hosted: Hosted) -> None:
    request = generated(good(), hosted)
    assert (request.width, request.height, request.num_steps, request.solver) == (
        128,
        128,
        30,
        "euler",
    )
    assert (request.boundary, request.num_images, request.output) == (0.65, 1, OutputFormat.PNG)


def test_absent_refiner_is_conditioned_like_the_base(hosted: Hosted) -> None:
    message = good()
    message.base.guidance_scale = 7.5
    message.base.negative_prompt = "blur"
    request = generated(message, hosted)
    assert request.refiner == request.base


def test_absent_guidance_is_each_experts_own(hosted: Hosted) -> None:
    request = generated(good(), hosted)
    assert request.base is not None
    assert request.refiner is not None
    assert (request.base.guidance_scale, request.refiner.guidance_scale) == (5.0, 4.0)


def test_present_refiner_inherits_nothing(hosted: Hosted) -> None:
    message = good(refiner=StageSettings(prompt="detail"))
    message.base.negative_prompt = "blur"
    request = generated(message, hosted)
    assert request.refiner is not None
    assert (request.refiner.prompt, request.refiner.negative_prompt) == ("detail", None)


def test_empty_negative_prompt_is_not_an_absent_one(hosted: Hosted) -> None:
    message = good()
    message.base.negative_prompt = ""
    request = generated(message, hosted)
    assert request.base is not None
    assert request.base.negative_prompt == ""


def test_base_only_runs_the_whole_schedule(hosted: Hosted) -> None:
    request = generated(good(base_only=True), hosted)
    assert (request.refiner, request.boundary) == (None, None)


def test_base_only_stops_at_a_boundary_that_is_set(hosted: Hosted) -> None:
    assert generated(good(base_only=True, boundary=0.8), hosted).boundary == 0.8


def test_server_without_refiner_paints_with_the_base_alone(hosted: Hosted) -> None:
    request = generated(good(), without_refiner(hosted))
    assert (request.refiner, request.boundary) == (None, None)


@pytest.mark.parametrize(
    "message", [good(boundary=0.5), good(refiner=StageSettings(prompt="detail"))]
)
def test_refiner_that_was_asked_for_is_missed(message: GenerateRequest, hosted: Hosted) -> None:
    with pytest.raises(ExpertMissing):
        generated(message, without_refiner(hosted))


def test_absent_seed_follows_from_the_request_id(hosted: Hosted) -> None:
    assert generated(good(), hosted).seed == generated(good(), hosted).seed


def test_micro_conditioning_is_height_first(hosted: Hosted) -> None:
    message = good(
        original_size=Size(width=10, height=20),
        crop_top_left=CropOffset(top=1, left=2),
        target_size=Size(width=30, height=40),
    )
    request = generated(message, hosted)
    assert (request.original_size, request.crop_top_left, request.target_size) == (
        (20, 10),
        (1, 2),
        (40, 30),
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"width": 100}, "width"),
        ({"height": 1024}, "height"),
        ({"width": -8}, "width"),
        ({"width": 512, "height": 512}, "width"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 101}, "num_steps"),
        ({"num_images": 0}, "num_images"),
        ({"num_images": 5}, "num_images"),
        ({"boundary": 0.0}, "boundary"),
        ({"boundary": 1.0}, "boundary"),
        ({"boundary": math.nan}, "boundary"),
        ({"solver": "eular"}, "solver"),
        ({"spacing": "wide"}, "spacing"),
        ({"sigma_schedule": "flat"}, "sigma_schedule"),
        ({"eta": 0.5}, "eta"),
        ({"eta": 1.5, "solver": "ddim"}, "eta"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63 - 1}, "seed"),
        ({"output": 99}, "output"),
        ({"history": 99}, "history"),
        ({"long_prompt": 99}, "long_prompt"),
        ({"quality": 0}, "quality"),
        ({"quality": 101}, "quality"),
        ({"preview_every": 31}, "preview_every"),
        ({"preview_every": -1}, "preview_every"),
        ({"original_size": Size(width=0, height=8)}, "original_size.width"),
        ({"target_size": Size(width=8, height=2**30)}, "target_size.height"),
        ({"crop_top_left": CropOffset(top=-1)}, "crop_top_left.top"),
        ({"base_only": True, "refiner": StageSettings(prompt="x")}, "refiner"),
    ],
)
def test_bad_field_is_named(fields: dict[str, object], field: str, hosted: Hosted) -> None:
    assert fields_refused(good(**fields), hosted) == [field]


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        (StageSettings(prompt=""), "refiner.prompt"),
        (StageSettings(prompt=" \n"), "refiner.prompt"),
        (StageSettings(prompt="x" * 1_000_000), "refiner.prompt"),
        (StageSettings(prompt="x", negative_prompt="y" * 40_000), "refiner.negative_prompt"),
        (StageSettings(prompt="x", guidance_scale=math.nan), "refiner.guidance_scale"),
        (StageSettings(prompt="x", guidance_scale=math.inf), "refiner.guidance_scale"),
        (StageSettings(prompt="x", guidance_scale=-1.0), "refiner.guidance_scale"),
        (StageSettings(prompt="x", guidance_scale=101.0), "refiner.guidance_scale"),
        (StageSettings(prompt="x", guidance_rescale=1.1), "refiner.guidance_rescale"),
        (StageSettings(prompt="x", guidance_rescale=math.nan), "refiner.guidance_rescale"),
        (StageSettings(prompt="x", aesthetic_score=6.0), "refiner.aesthetic_score"),
        (
            StageSettings(prompt="x", guidance_interval=ScheduleInterval(start=0.5, end=0.4)),
            "refiner.guidance_interval",
        ),
        (
            StageSettings(prompt="x", guidance_interval=ScheduleInterval(start=-1, end=1)),
            "refiner.guidance_interval.start",
        ),
    ],
)
def test_bad_field_of_a_stage_is_named(stage: StageSettings, field: str, hosted: Hosted) -> None:
    assert fields_refused(good(refiner=stage), hosted) == [field]


def test_aesthetic_score_is_taken_by_an_expert_that_knows_it(hosted: Hosted) -> None:
    assert hosted.refiner is not None
    knowing = dataclasses.replace(hosted.refiner, takes_aesthetic_score=True)
    message = good(refiner=StageSettings(prompt="x", aesthetic_score=7.0))
    request = generated(message, dataclasses.replace(hosted, refiner=knowing))
    assert request.refiner is not None
    assert request.refiner.aesthetic_score == 7.0


def test_missing_base_is_named(hosted: Hosted) -> None:
    assert fields_refused(GenerateRequest(), hosted) == ["base"]


def test_every_violation_is_told_at_once(hosted: Hosted) -> None:
    message = GenerateRequest(
        base=StageSettings(prompt="", guidance_scale=math.nan), num_steps=0, width=100, solver="x"
    )
    assert sorted(fields_refused(message, hosted)) == [
        "base.guidance_scale",
        "base.prompt",
        "num_steps",
        "solver",
        "width",
    ]


def test_violation_states_value_and_limit(hosted: Hosted) -> None:
    with pytest.raises(InvalidRequest, match="num_steps: 101 exceeds the limit of 100"):
        generated(good(num_steps=101), hosted)


def test_carried_history_is_kept(hosted: Hosted) -> None:
    request = generated(good(history=SOLVER_HISTORY_CARRY), hosted)
    assert request.history is SolverHistory.CARRY


def test_carried_history_is_refused_across_two_servers(hosted: Hosted) -> None:
    message = good(history=SOLVER_HISTORY_CARRY)
    assert fields_refused(message, with_remote_refiner(hosted)) == ["history"]


def test_request_id_is_kept() -> None:
    assert request_id_of(GenerateRequest(request_id=REQUEST_ID.upper())) == REQUEST_ID


def test_absent_request_id_is_drawn_anew() -> None:
    assert request_id_of(GenerateRequest()) != request_id_of(GenerateRequest())


def test_request_id_that_is_no_uuid_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="request_id: 'mine' is not a UUID"):
        request_id_of(GenerateRequest(request_id="mine"))


def test_latents_tell_size_number_steps_boundary_and_draws(hosted: Hosted) -> None:
    message = refinement(latents=latents(boundary=0.65, num_steps=40, num_draws=26))
    request = refined(message, hosted)
    assert (request.width, request.height, request.num_images) == (64, 128, 2)
    assert (request.num_steps, request.boundary, request.skip_draws) == (40, 0.65, 26)
    assert isinstance(request.source, LatentsInput)


def test_fields_of_the_request_win_over_the_latents_header(hosted: Hosted) -> None:
    message = refinement(latents=latents(boundary=0.65, num_steps=40), boundary=0.8, num_steps=20)
    request = refined(message, hosted)
    assert (request.num_steps, request.boundary) == (20, 0.8)


def test_picture_tells_the_size(hosted: Hosted) -> None:
    message = refinement(image=ImageSource(data=picture(), strength=0.5), num_images=3)
    request = refined(message, hosted)
    assert (request.width, request.height, request.num_images) == (128, 64, 3)
    assert isinstance(request.source, ImageInput)
    assert request.source.strength == 0.5


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (refinement(), ["source"]),
        (RefineRequest(latents=latents(boundary=0.5)), ["refiner"]),
        (refinement(latents=latents()), ["boundary"]),
        (refinement(latents=latents(boundary=1.0)), ["latents.header.boundary"]),
        (refinement(latents=latents(boundary=0.5), num_images=3), ["num_images"]),
        (refinement(latents=latents((2, 5, 16, 16), boundary=0.5)), ["latents.header.shape"]),
        (refinement(latents=latents((1, 4, 16), boundary=0.5)), ["latents.header.shape"]),
        (
            refinement(latents=Latents(header=LatentsHeader(shape=[1, 4, 16, 16], boundary=0.5))),
            ["latents.data"],
        ),
        (
            refinement(latents=latents(boundary=0.5, num_draws=100_000)),
            ["latents.header.num_draws"],
        ),
        (
            refinement(latents=latents(boundary=0.5, num_steps=1000)),
            ["latents.header.num_steps"],
        ),
        (refinement(image=ImageSource(data=b"GIF89a")), ["image.data"]),
        (refinement(image=ImageSource(data=picture()[:60])), ["image.data"]),
        (refinement(image=ImageSource(data=picture(), strength=0.0)), ["image.strength"]),
        (refinement(image=ImageSource(data=picture(), strength=math.nan)), ["image.strength"]),
        (refinement(image=ImageSource(data=picture()), boundary=0.5), ["boundary"]),
        (refinement(image=ImageSource(data=picture()), num_images=9), ["num_images"]),
        (
            refinement(image=ImageSource(data=picture()), output=OUTPUT_FORMAT_LATENTS, quality=-1),
            ["quality"],
        ),
    ],
)
def test_bad_source_is_named(message: RefineRequest, fields: list[str], hosted: Hosted) -> None:
    assert fields_refused(message, hosted) == fields


def test_latents_of_another_family_are_refused(hosted: Hosted) -> None:
    message = refinement(latents=latents(boundary=0.5))
    message.latents.header.family = "playground-v2.5"
    with pytest.raises(InvalidRequest, match=r"'playground-v2\.5' do not fit this refiner"):
        refined(message, hosted)


def test_latents_with_another_digest_are_refused(hosted: Hosted) -> None:
    message = refinement(latents=latents(boundary=0.5))
    message.latents.sha256 = bytes(32)
    assert fields_refused(message, hosted) == ["latents.sha256"]


def test_refinement_needs_a_refiner_on_this_server(hosted: Hosted) -> None:
    with pytest.raises(ExpertMissing):
        refined(refinement(latents=latents(boundary=0.5)), with_remote_refiner(hosted))

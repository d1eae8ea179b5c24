"""What a server says it can do, read as values."""

from diptych.clients.capabilities import (
    Capabilities,
    Defaults,
    ExpertInfo,
    Limits,
    read_capabilities,
)
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import types_pb2 as types

MESSAGE = pb.GetCapabilitiesResponse(
    version="0.1.0",
    experts=[
        pb.ExpertInfo(
            expert=types.EXPERT_BASE,
            family="nano",
            model="nano/base",
            prediction_type="v_prediction",
            default_guidance_scale=5.0,
        ),
        pb.ExpertInfo(expert=types.EXPERT_REFINER, family="nano", remote=True),
    ],
    limits=pb.Limits(
        min_side=64,
        max_side=2048,
        max_pixels=2**22,
        size_multiple=8,
        max_num_steps=200,
        max_num_images=16,
        max_prompt_bytes=8192,
        max_inline_bytes=3 * 2**20,
        max_adapters=8,
        max_adapter_rank=128,
    ),
    defaults=pb.Defaults(width=128, height=128, num_steps=40, solver="euler", boundary=0.65),
    solvers=["euler", "unipc"],
    spacings=["trailing"],
    sigma_schedules=["karras"],
    outputs=[types.OUTPUT_FORMAT_PNG, types.OUTPUT_FORMAT_LATENTS],
)


def test_everything_a_server_says_is_read() -> None:
    assert read_capabilities(MESSAGE) == Capabilities(
        version="0.1.0",
        experts=(
            ExpertInfo(
                expert="base",
                family="nano",
                model="nano/base",
                prediction_type="v_prediction",
                default_guidance_scale=5.0,
                remote=False,
            ),
            ExpertInfo(
                expert="refiner",
                family="nano",
                model="",
                prediction_type="",
                default_guidance_scale=0.0,
                remote=True,
            ),
        ),
        limits=Limits(
            min_side=64,
            max_side=2048,
            max_pixels=2**22,
            size_multiple=8,
            max_num_steps=200,
            max_num_images=16,
            max_prompt_bytes=8192,
            max_inline_bytes=3 * 2**20,
            max_adapters=8,
            max_adapter_rank=128,
        ),
        defaults=Defaults(width=128, height=128, num_steps=40, solver="euler", boundary=0.65),
        solvers=("euler", "unipc"),
        spacings=("trailing",),
        sigma_schedules=("karras",),
        outputs=("png", "latents"),
    )


def test_server_without_a_refiner_has_no_default_boundary() -> None:
    found = read_capabilities(pb.GetCapabilitiesResponse(defaults=pb.Defaults(width=128)))
    assert found.defaults.boundary is None


def test_experts_and_outputs_of_the_future_are_left_out() -> None:
    message = pb.GetCapabilitiesResponse(experts=[pb.ExpertInfo(expert=9)], outputs=[9])  # type: ignore[arg-type, list-item]
    found = read_capabilities(message)
    assert (found.experts, found.outputs) == ((), ())

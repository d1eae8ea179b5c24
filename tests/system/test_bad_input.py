"""Whatever is wrong with a request is named with its limit, and the next request works."""

import io
import math
import struct
import zlib
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from diptych.clients.calls import GenerateCall, Stage
from diptych.clients.inference import InferenceClient
from diptych.inference.server import BackgroundServer
from diptych.v1.inference_pb2 import GenerateRequest, ImageSource, RefineRequest
from diptych.v1.inference_pb2_grpc import InferenceServiceStub
from diptych.v1.types_pb2 import Latents, LatentsHeader, StageSettings

STAGE = StageSettings(prompt="a red circle")
SMALL = GenerateCall(
    base=Stage(prompt="a red circle", guidance_scale=1.0),
    base_only=True,
    seed=1,
    num_steps=1,
    width=64,
    height=64,
)


def generate(**fields: object) -> GenerateRequest:
    message = GenerateRequest(base=STAGE)
    message.MergeFrom(GenerateRequest(**fields))  # type: ignore[arg-type]
    return message


def painted(**stage: object) -> GenerateRequest:
    return GenerateRequest(base=StageSettings(**stage))  # type: ignore[arg-type]


def latents(values: np.ndarray, family: str = "nano") -> RefineRequest:
    header = LatentsHeader(shape=values.shape, family=family, boundary=0.65)
    source = Latents(header=header, data=values.astype("<f4").tobytes())
    return RefineRequest(refiner=STAGE, latents=source)


def picture(data: bytes) -> RefineRequest:
    return RefineRequest(refiner=STAGE, image=ImageSource(data=data))


def png(width: int = 64, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 50).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """Return a PNG of a few bytes that claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))


NOT_FINITE = np.full((1, 4, 8, 8), np.nan)
ZEROS = np.zeros((1, 4, 8, 8))

BAD: dict[str, tuple[GenerateRequest | RefineRequest, str, str]] = {
    "size that is no multiple": (generate(width=100), "width", "100 is not a multiple of 8"),
    "size over the limit": (generate(height=264), "height", "264 exceeds the limit of 256"),
    "no steps": (generate(num_steps=0), "num_steps", "0 is below the minimum of 1"),
    "too many steps": (generate(num_steps=201), "num_steps", "201 exceeds the limit of 200"),
    "boundary 0": (generate(boundary=0.0), "boundary", "0.0 is not in (0, 1)"),
    "boundary 1": (generate(boundary=1.0), "boundary", "1.0 is not in (0, 1)"),
    "unknown solver": (generate(solver="eular"), "solver", "'eular' is not one of euler,"),
    "NaN guidance": (
        painted(prompt="x", guidance_scale=math.nan),
        "base.guidance_scale",
        "nan is not in [0, 100]",
    ),
    "empty prompt": (painted(prompt=""), "base.prompt", "is empty"),
    "prompt of 1 MB": (
        painted(prompt="x" * 1_000_000),
        "base.prompt",
        "1000000 bytes exceed the limit of 32768",
    ),
    "latents that are not finite": (latents(NOT_FINITE), "latents.data", "are not finite"),
    "latents of another shape": (
        latents(np.zeros((1, 16, 8, 8))),
        "latents.header.shape",
        "16 channels, while the refiner takes 4",
    ),
    "latents of another family": (
        latents(ZEROS, family="sdxl-base"),
        "latents.header.family",
        "'sdxl-base' do not fit",
    ),
    "truncated picture": (picture(png()[:500]), "image.data", "does not decode"),
    "oversized picture": (picture(png(264)), "image.data", "264 exceeds the limit of 256"),
    "picture that is a bomb": (picture(bomb()), "image.data", "limit"),
    "unknown output": (generate(output=77), "output", "77 is not a value of OutputFormat"),
}


@pytest.fixture(scope="module")
def stub(server: BackgroundServer) -> Iterator[InferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield InferenceServiceStub(channel)


def refusal(stub: InferenceServiceStub, message: GenerateRequest | RefineRequest) -> grpc.Call:
    method = stub.Generate if isinstance(message, GenerateRequest) else stub.Refine
    with pytest.raises(grpc.RpcError) as caught:
        list(method(message, timeout=60.0))  # type: ignore[arg-type]
    return caught.value  # type: ignore[return-value]


def violations(error: grpc.Call) -> dict[str, str]:
    status = rpc_status.from_call(error)
    assert status is not None
    found = error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(found)
    return {v.field: v.description for v in found.field_violations}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_with_its_limit_and_the_next_request_works(
    case: str, stub: InferenceServiceStub, client: InferenceClient
) -> None:
    message, field, description = BAD[case]
    error = refusal(stub, message)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert description in violations(error)[field]
    assert len(client.generate_images(SMALL)) == 1


def test_all_violations_are_told_at_once(stub: InferenceServiceStub) -> None:
    message = generate(width=100, num_steps=0, boundary=1.0, solver="x", output=77)
    message.base.guidance_scale = math.nan
    assert set(violations(refusal(stub, message))) == {
        "base.guidance_scale",
        "boundary",
        "num_steps",
        "output",
        "solver",
        "width",
    }


def test_refusal_names_its_reason_and_domain(stub: InferenceServiceStub) -> None:
    status = rpc_status.from_call(refusal(stub, generate(num_steps=0)))
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "diptych")


def test_message_over_4_mib_is_refused_and_the_next_request_works(
    stub: InferenceServiceStub, client: InferenceClient
) -> None:
    error = refusal(stub, painted(prompt="x" * (5 * 1024 * 1024)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(client.generate_images(SMALL)) == 1

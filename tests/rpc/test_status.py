"""Every error crosses the wire and comes out as itself."""

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from diptych import errors
from diptych.errors import DiptychError, FieldViolation
from diptych.rpc.status import from_rpc_error, from_status, to_status, trailing_metadata
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

VIOLATIONS = [
    FieldViolation(field="width", description="100 is not a multiple of 8"),
    FieldViolation(field="base.guidance_scale", description="nan is not finite"),
]
EXAMPLES: list[DiptychError] = [
    errors.InvalidRequest(VIOLATIONS),
    errors.PromptTooLong(field="base.prompt", num_tokens=99, limit=75, cut_text="and a pear"),
    errors.PromptTooLong.all_of(
        [
            errors.PromptTooLong(field=field, num_tokens=99, limit=75, cut_text=field)
            for field in ("base.prompt", "refiner.prompt")
        ]
    ),
    errors.CheckpointInvalid("model", "no config"),
    errors.PickleRefused("model", "unet.bin"),
    errors.AdapterInvalid("huggy", "no tensors"),
    errors.ConversionUnsupported(target_format="kohya", content="learned tokens"),
    errors.DatasetInvalid(VIOLATIONS),
    errors.EmbeddingInvalid("cut"),
    errors.EmbeddingMissing("sha256:aa", 3),
    errors.ImageInvalid("a.png", "truncated"),
    errors.JobInvalid(VIOLATIONS),
    errors.DigestMismatch(expected="sha256:aa", actual="sha256:bb"),
    errors.AdapterMismatch(adapter="huggy", field="family", made_for="sdxl-base", used_on="nano"),
    errors.AdapterInUse(adapter="huggy", num_requests=3, pinned=True),
    errors.LeaseLost(job="j", owner="a"),
    errors.NameMoved(name="huggy", expected="sha256:aa", actual="sha256:bb"),
    errors.NameTaken(name="huggy", actual="sha256:aa"),
    errors.RequestIdReused(request_id="r", job="j"),
    errors.AdapterNotFound("huggy"),
    errors.BlobNotFound("sha256:aa"),
    errors.BlobCorrupt(digest="sha256:aa", actual="sha256:bb"),
    errors.AdapterSlotsFull(needed_lines=160, num_lines=128, retry_after_s=0.25),
    errors.StoreFull(location="local", size_bytes=10),
    errors.SettingInvalid(VIOLATIONS),
    errors.TokenRefused("none"),
    errors.TenantRefused("lab may not act for another tenant in Generate"),
    errors.ExpertsMismatch(field="latent_channels", base=4, refiner=16),
    errors.EncodersMismatch(cache="cache:1", model="nano"),
    errors.NonFiniteLoss(step=7, images="sha256:aa, sha256:bb"),
    errors.ResumeMismatch(checkpoint="base/7", written_for="sha256:aa", asked="sha256:bb"),
    errors.TimestepOutOfRange(timestep=7, first=350, last=999),
    errors.ExpertMissing("refiner"),
    errors.ExtraMissing(extra="inference", needed_for="serve"),
    errors.JobStateConflict(job="j", state="running", wanted="deleted"),
    errors.ModelNotFound("sdxl"),
    errors.JobNotFound("j"),
    errors.ObjectNotFound("s3://bucket/key"),
    errors.QueueFull(waiting=64, limit=64, retry_after_s=2.25),
    errors.QuotaExceeded(tenant="lab", num_active=4, limit=4),
    errors.OutOfDeviceMemory(width=4096, height=2048),
    errors.DeadlinePassed(request_id="r", late_s=0.5),
    errors.DeadlineUnreachable(predicted_s=12.5, remaining_s=3.25),
    errors.RequestCancelled("r"),
    errors.Draining(0.5),
    errors.LedgerUnavailable("sqlite:///jobs.db", "locked"),
    errors.Starting(0.5),
    errors.PeerUnavailable(address="peer:1", detail="refused"),
    errors.SourceUnavailable("hub", "timed out"),
    errors.ServerUnreachable(address="server:1", detail="refused"),
    errors.EngineFault("a row failed"),
    errors.ResponseCorrupt("digest"),
]
EACH = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: error.reason)
WIDE = 4096 * "\N{SNOWMAN}"


def leaves(parent: type[DiptychError]) -> set[type[DiptychError]]:
    own = {parent} if "reason" in vars(parent) and parent is not DiptychError else set()
    return own.union(*(leaves(child) for child in parent.__subclasses__()))


def seen(error: DiptychError) -> tuple[object, ...]:
    """Return all of ``error`` that a program can see."""
    return type(error), str(error), vars(error).keys(), error.violations, error.retry_after_s


async def crossed(stub: pb_grpc.InferenceServiceStub, *, seed: int) -> DiptychError:
    """Return what a Generate that fails becomes on this side."""
    call: Any = stub.Generate(pb.GenerateRequest(seed=seed))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(call))
    return from_rpc_error(caught.value, address="here", request_id="r")


def test_examples_are_all_the_errors_there_are() -> None:
    assert {type(error) for error in EXAMPLES} == leaves(DiptychError)


@EACH
def test_error_comes_back_as_itself(error: DiptychError) -> None:
    assert seen(from_status(to_status(error))) == seen(error)


async def test_every_error_crosses_a_real_server(serve: Any, connect: Any) -> None:
    async def fail(
        request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        raise EXAMPLES[request.seed]
        yield

    server = await serve(fail)
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    found = [await crossed(stub, seed=index) for index in range(len(EXAMPLES))]
    assert [seen(error) for error in found] == [seen(error) for error in EXAMPLES]


def test_typed_fields_come_back_typed() -> None:
    found = from_status(to_status(errors.QueueFull(waiting=3, limit=2, retry_after_s=0.25)))
    assert isinstance(found, errors.QueueFull)
    assert (found.waiting, found.limit, found.retry_after_s) == (3, 2, 0.25)


def test_retryable_error_tells_grpc_when_to_retry() -> None:
    assert ("grpc-retry-pushback-ms", "2250") in trailing_metadata(
        errors.QueueFull(waiting=1, limit=1, retry_after_s=2.25)
    )


def test_lasting_error_tells_grpc_nothing_about_retries() -> None:
    assert [key for key, _ in trailing_metadata(errors.ExpertMissing("base"))] == [
        "grpc-status-details-bin"
    ]


@pytest.mark.parametrize(
    "error",
    [
        errors.PromptTooLong(field="base.prompt", num_tokens=9, limit=1, cut_text=WIDE),
        errors.InvalidRequest([FieldViolation(field="f", description=WIDE)] * 500),
        errors.EngineFault(WIDE),
    ],
    ids=lambda error: error.reason,
)
async def test_long_texts_do_not_outgrow_the_trailers(error: Any, serve: Any, connect: Any) -> None:
    async def fail(
        request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        raise error
        yield

    server = await serve(fail)
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    assert type(await crossed(stub, seed=0)) is type(error)


def test_violations_that_do_not_fit_are_counted() -> None:
    error = errors.InvalidRequest([FieldViolation(field="f", description="d" * 500)] * 100)
    assert from_status(to_status(error)).violations[-1].description.startswith("and 9")


@given(st.text(max_size=600))
def test_any_text_becomes_a_status_of_bounded_size(text: str) -> None:
    assert to_status(errors.EngineFault(text)).ByteSize() < 2048


def test_text_that_is_not_unicode_still_arrives() -> None:
    assert "bad ?" in str(from_status(to_status(errors.EngineFault("bad \udcff"))))


def test_unknown_reason_falls_back_to_the_class_of_its_code() -> None:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="later")
    info = error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="diptych")
    status.details.add().Pack(info)
    found = from_status(status)
    assert (type(found), found.reason) == (errors.ResourceExhausted, "FROM_THE_FUTURE")


def test_known_reason_without_its_fields_falls_back_to_the_class_of_its_code() -> None:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="later")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="diptych"))
    found = from_status(status)
    assert (type(found), found.reason) == (errors.ResourceExhausted, "QUEUE_FULL")


def test_reason_of_another_domain_is_not_taken_for_ours() -> None:
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="m")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="DRAINING", domain="elsewhere"))
    assert type(from_status(status)) is errors.Unavailable


def test_code_that_does_not_exist_is_internal() -> None:
    assert type(from_status(status_pb2.Status(code=99))) is errors.Internal


async def test_any_client_can_read_the_status(serve: Any, connect: Any) -> None:
    async def fail(
        request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        raise errors.InvalidRequest(VIOLATIONS)
        yield

    server = await serve(fail)
    call = pb_grpc.InferenceServiceStub(await connect(server.port)).Generate(pb.GenerateRequest())
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(aiter(call))
    from_call: Any = rpc_status.aio.from_call  # type: ignore[attr-defined]
    status = await from_call(call)
    assert [detail.TypeName() for detail in status.details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
    ]


class Refused(grpc.RpcError):
    """A call that gRPC itself, or a server that is none of ours, ended."""

    def __init__(self, details: str = "", trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._details, self._trailers = details, trailers

    @override
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    @override
    def details(self) -> str:
        return self._details

    @override
    def trailing_metadata(self) -> Any:
        return self._trailers


def test_message_that_grpc_does_not_take_is_an_invalid_request() -> None:
    refused = Refused("SERVER: Received message larger than max (10000056 vs. 4194304)")
    found = from_rpc_error(refused, address="here", request_id="r")
    assert isinstance(found, errors.InvalidRequest)
    assert "10000056 bytes exceed the limit of 4194304" in str(found)


def garbage_inside() -> bytes:
    status = status_pb2.Status(code=code_pb2.INTERNAL, message="m")
    detail = status.details.add()
    detail.Pack(error_details_pb2.ErrorInfo())
    detail.value = b"\xff\xff"
    return bytes(status.SerializeToString())


@pytest.mark.parametrize("trailer", [b"\xff\xff", garbage_inside()])
def test_trailers_that_are_no_status_leave_the_code_to_tell(trailer: bytes) -> None:
    refused = Refused("later", (("grpc-status-details-bin", trailer),))
    found = from_rpc_error(refused, address="here", request_id="r")
    assert type(found) is errors.ResourceExhausted

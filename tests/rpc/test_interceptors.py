"""Around every call: a name, an identity, a status for what went wrong, a line and a count."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from diptych.errors import ExpertMissing, InvalidRequest
from diptych.rpc.auth import TENANT_KEY, TokenFile, Trust
from diptych.rpc.interceptors import REQUEST_ID_KEY, _parse_each, current_caller
from diptych.rpc.status import from_rpc_error
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import inference_pb2_grpc as pb_grpc

STARTED = pb.GenerateResponse(event=pb.ImageEvent(started=pb.Started()))


class Counted(list[tuple[str, str, str | None]]):
    """An ``OnCall`` that keeps what it was told, and lets a test await it."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def __call__(self, method: str, code: str, reason: str | None = None) -> None:
        self.append((method, code, reason))
        self.told.set()


async def leak(request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
    raise KeyError("the secret prompt")
    yield


async def refuse(request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
    yield STARTED
    raise ExpertMissing("refiner")


async def forever(request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
    yield STARTED
    await asyncio.Event().wait()


async def tell_caller(
    request: pb.GenerateRequest, context: Any
) -> AsyncGenerator[pb.GenerateResponse]:
    caller = current_caller()
    resolved = pb.Resolved(request_id=caller.request_id, solver=caller.tenant)
    yield pb.GenerateResponse(event=pb.ImageEvent(queued=pb.Queued(resolved=resolved)))


async def caller_seen(channel: grpc.aio.Channel, **metadata: str) -> pb.Resolved:
    """Return what the handler learned of its caller."""
    pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    call = pb_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(), metadata=pairs)
    answer = await anext(aiter(call))
    return answer.event.queued.resolved


async def failure(channel: grpc.aio.Channel, **options: Any) -> grpc.aio.AioRpcError:
    """Return how a Generate ends that does not end well."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [
            r
            async for r in pb_grpc.InferenceServiceStub(channel).Generate(
                pb.GenerateRequest(), **options
            )
        ]
    return caught.value


async def test_error_after_the_first_answers_still_carries_its_reason(
    serve: Any, connect: Any
) -> None:
    server = await serve(refuse)
    found = from_rpc_error(await failure(await connect(server.port)), address="", request_id="")
    assert isinstance(found, ExpertMissing)


async def test_unforeseen_error_does_not_leak_its_text(serve: Any, connect: Any) -> None:
    server = await serve(leak)
    error = await failure(await connect(server.port))
    assert "secret" not in str(error)


async def test_unforeseen_error_is_internal_with_a_reason(serve: Any, connect: Any) -> None:
    server = await serve(leak)
    found = from_rpc_error(await failure(await connect(server.port)), address="", request_id="")
    assert (found.code, found.reason) == ("INTERNAL", "ENGINE_FAULT")


async def test_unforeseen_error_leaves_its_traceback_in_the_log(
    serve: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(leak)
    await failure(await connect(server.port))
    logged = [r.exc_info[0] for r in caplog.records if r.exc_info and r.name.startswith("diptych")]
    assert logged == [KeyError]


async def test_next_call_works_after_an_unforeseen_error(serve: Any, connect: Any) -> None:
    server = await serve(leak)
    channel = await connect(server.port)
    await failure(channel)
    answer = await pb_grpc.InferenceServiceStub(channel).GetCapabilities(
        pb.GetCapabilitiesRequest()
    )
    assert answer.version == "0.1.0"


async def test_cancelling_reaches_the_handler(serve: Any, connect: Any) -> None:
    left = asyncio.Event()

    async def wait_until_cancelled(
        request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        yield STARTED
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    server = await serve(wait_until_cancelled)
    call = pb_grpc.InferenceServiceStub(await connect(server.port)).Generate(pb.GenerateRequest())
    await anext(aiter(call))
    call.cancel()
    await asyncio.wait_for(left.wait(), timeout=30)


async def test_cancelling_closes_a_handler_that_is_sending(serve: Any, connect: Any) -> None:
    left = asyncio.Event()
    block = pb.GenerateResponse(
        event=pb.ImageEvent(image_chunk=pb.ImageChunk(data=bytes(1024 * 1024)))
    )

    async def send_without_end(
        request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        try:
            while True:
                yield block
        finally:
            left.set()

    server = await serve(send_without_end)
    call = pb_grpc.InferenceServiceStub(await connect(server.port)).Generate(pb.GenerateRequest())
    await anext(aiter(call))
    call.cancel()
    await asyncio.wait_for(left.wait(), timeout=30)


async def test_deadline_ends_the_call(serve: Any, connect: Any) -> None:
    server = await serve(forever)
    error = await failure(await connect(server.port), timeout=0.3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_success_is_counted(serve: Any, connect: Any) -> None:
    counted = Counted()
    server = await serve(on_call=counted)
    await caller_seen(await connect(server.port))
    await asyncio.wait_for(counted.told.wait(), timeout=30)
    assert counted == [("Generate", "OK", None)]


@pytest.mark.parametrize(
    ("behaviour", "options", "expected"),
    [
        (refuse, {}, ("Generate", "FAILED_PRECONDITION", "EXPERT_MISSING")),
        (leak, {}, ("Generate", "INTERNAL", "ENGINE_FAULT")),
        (forever, {"timeout": 0.3}, ("Generate", "DEADLINE_EXCEEDED", "DEADLINE_PASSED")),
    ],
    ids=["refused", "unforeseen", "late"],
)
async def test_failure_is_counted_by_its_reason(
    behaviour: Any,
    options: dict[str, Any],
    expected: tuple[str, str, str],
    serve: Any,
    connect: Any,
) -> None:
    counted = Counted()
    server = await serve(behaviour, on_call=counted)
    await failure(await connect(server.port), **options)
    await asyncio.wait_for(counted.told.wait(), timeout=30)
    assert counted == [expected]


async def test_cancelled_call_is_counted_as_cancelled(serve: Any, connect: Any) -> None:
    counted = Counted()
    server = await serve(forever, on_call=counted)
    call = pb_grpc.InferenceServiceStub(await connect(server.port)).Generate(pb.GenerateRequest())
    await anext(aiter(call))
    call.cancel()
    await asyncio.wait_for(counted.told.wait(), timeout=30)
    assert counted == [("Generate", "CANCELLED", "REQUEST_CANCELLED")]


async def test_call_keeps_the_name_its_caller_gave_it(serve: Any, connect: Any) -> None:
    server = await serve(tell_caller)
    seen = await caller_seen(await connect(server.port), x_request_id="my-request")
    assert seen.request_id == "my-request"


@pytest.mark.parametrize("name", [None, "x" * 65])
async def test_call_without_a_usable_name_gets_one(
    name: str | None, serve: Any, connect: Any
) -> None:
    server = await serve(tell_caller)
    metadata = {} if name is None else {"x_request_id": name}
    seen = await caller_seen(await connect(server.port), **metadata)
    assert str(uuid.UUID(seen.request_id)) == seen.request_id


async def test_name_of_the_call_comes_back_in_the_trailers(serve: Any, connect: Any) -> None:
    server = await serve()
    stub = pb_grpc.InferenceServiceStub(await connect(server.port))
    call = stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=((REQUEST_ID_KEY, "r-1"),))
    await call
    trailers: Any = await call.trailing_metadata()
    assert (REQUEST_ID_KEY, "r-1") in tuple(trailers)


async def test_name_of_a_failed_call_comes_back_in_the_trailers(serve: Any, connect: Any) -> None:
    server = await serve(refuse)
    error = await failure(await connect(server.port), metadata=((REQUEST_ID_KEY, "r-1"),))
    trailers: Any = error.trailing_metadata()
    assert (REQUEST_ID_KEY, "r-1") in tuple(trailers)


async def test_end_of_a_call_is_logged(
    serve: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="diptych")
    server = await serve(refuse)
    await failure(await connect(server.port))
    lines = [record for record in caplog.records if record.message == "call ended"]
    assert [vars(line)["reason"] for line in lines] == ["EXPERT_MISSING"]


async def test_without_authentication_the_tenant_is_default(serve: Any, connect: Any) -> None:
    server = await serve(tell_caller)
    seen = await caller_seen(await connect(server.port))
    assert seen.solver == "default"


@pytest.fixture
def token_file(tmp_path: Path) -> TokenFile:
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    (tmp_path / "tokens").write_text(f"studio {digest}\n")
    return TokenFile(tmp_path / "tokens")


async def test_token_decides_the_tenant(serve: Any, connect: Any, token_file: Path) -> None:
    server = await serve(tell_caller, authenticate=token_file)
    seen = await caller_seen(await connect(server.port), authorization="Bearer secret")
    assert seen.solver == "studio"


async def test_call_without_a_known_token_is_unauthenticated(
    serve: Any, connect: Any, token_file: Path
) -> None:
    server = await serve(tell_caller, authenticate=token_file)
    error = await failure(await connect(server.port))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_trusted_peer_decides_the_tenant(
    serve: Any, connect: Any, token_file: TokenFile
) -> None:
    trust = Trust(peers=frozenset({"studio"}), methods=frozenset({"Generate"}))
    server = await serve(tell_caller, authenticate=token_file, trust=trust)
    seen = await caller_seen(
        await connect(server.port), authorization="Bearer secret", x_diptych_tenant="lab"
    )
    assert seen.solver == "lab"


async def test_call_for_another_tenant_is_refused(
    serve: Any, connect: Any, token_file: TokenFile
) -> None:
    server = await serve(tell_caller, authenticate=token_file)
    metadata = (("authorization", "Bearer secret"), (TENANT_KEY, "lab"))
    error = await failure(await connect(server.port), metadata=metadata)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_outside_of_a_call_the_caller_is_the_default_tenant() -> None:
    assert current_caller().tenant == "default"


async def test_method_that_does_not_exist_is_unimplemented(serve: Any, connect: Any) -> None:
    server = await serve()
    channel = await connect(server.port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/diptych.v1.InferenceService/Dream")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_bytes_that_are_no_message_are_an_invalid_argument(serve: Any, connect: Any) -> None:
    channel = await connect((await serve()).port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in channel.unary_stream("/diptych.v1.InferenceService/Generate")(b"\xff\xff"):
            pass
    error = from_rpc_error(caught.value, address="here", request_id="r")
    assert isinstance(error, InvalidRequest)
    assert str(error) == "request: 2 bytes that are no message of this method"


async def test_bytes_that_are_no_message_of_a_unary_method_are_an_invalid_argument(
    serve: Any, connect: Any
) -> None:
    channel = await connect((await serve()).port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/diptych.v1.InferenceService/GetCapabilities")(b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_call_of_bytes_that_are_no_message_is_counted(serve: Any, connect: Any) -> None:
    counted = Counted()
    channel = await connect((await serve(on_call=counted)).port)
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/diptych.v1.InferenceService/GetCapabilities")(b"\xff")
    await asyncio.wait_for(counted.told.wait(), 10.0)
    assert counted == [("GetCapabilities", "INVALID_ARGUMENT", "INVALID_REQUEST")]


async def test_each_message_of_a_stream_is_parsed_within_its_call() -> None:
    async def received() -> AsyncIterator[bytes]:
        yield pb.GenerateRequest(seed=3).SerializeToString()
        yield b"\xff"

    messages = _parse_each(received(), pb.GenerateRequest.FromString)
    assert (await anext(messages)).seed == 3
    with pytest.raises(InvalidRequest, match="1 bytes that are no message"):
        await anext(messages)

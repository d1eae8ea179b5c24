"""One call, one request: over real gRPC, with an engine that has no networks."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

import pytest

from diptych.clients.calls import AdapterChoice, GenerateCall, RefineCall, Stage
from diptych.clients.calls import Latents as LatentsSource
from diptych.clients.events import Completed, Picture, Queued
from diptych.clients.inference import AsyncInferenceClient, ClientConfig
from diptych.errors import (
    AdapterNotFound,
    DeadlinePassed,
    EngineFault,
    ExpertMissing,
    InvalidRequest,
    QueueFull,
    Starting,
)
from diptych.inference.hosted import Hosted
from diptych.inference.service import SERVICE_NAME, Hosting, InferenceService
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.server import RpcServer, ServerConfig
from diptych.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from support.catalogs import FakeCatalog
from support.engines import FakeEngine

CALL = GenerateCall(base=Stage(prompt="a red circle"), seed=7)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def catalog() -> FakeCatalog:
    return FakeCatalog()


@pytest.fixture
def images_counted() -> list[str]:
    return []


@pytest.fixture
async def service(
    engine: FakeEngine, hosted: Hosted, catalog: FakeCatalog, images_counted: list[str]
) -> InferenceService:
    service = InferenceService(on_image=images_counted.append)
    service.open(Hosting(engine=engine, hosted=hosted, catalog=catalog))
    return service


async def connected(service: InferenceService) -> AsyncIterator[AsyncInferenceClient]:
    server = RpcServer(ServerConfig(port=0))
    server.add_service(SERVICE_NAME, service, add_InferenceServiceServicer_to_server)
    async with server:
        channel = ChannelConfig(address=f"127.0.0.1:{server.port}", max_attempts=1)
        async with AsyncInferenceClient(ClientConfig(channel=channel, timeout_s=30.0)) as client:
            yield client


@pytest.fixture
async def client(service: InferenceService) -> AsyncIterator[AsyncInferenceClient]:
    async for client in connected(service):
        yield client


@pytest.fixture
async def early_client() -> AsyncIterator[AsyncInferenceClient]:
    async for client in connected(InferenceService()):
        yield client


async def test_call_is_queued_first_and_completed_last(client: AsyncInferenceClient) -> None:
    events = [event async for event in client.generate(CALL)]
    assert isinstance(events[0], Queued)
    assert isinstance(events[-1], Completed)


async def test_resolved_request_is_told(client: AsyncInferenceClient) -> None:
    events = [event async for event in client.generate(CALL)]
    assert isinstance(events[0], Queued)
    assert (events[0].resolved.seed, events[0].resolved.boundary) == (7, 0.65)


async def test_image_larger_than_a_message_arrives_whole(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    engine.picture = bytes(range(256)) * (6 * 4096)
    (picture,) = await client.generate_images(CALL)
    assert picture.data == engine.picture


async def test_each_image_has_its_own_seed(client: AsyncInferenceClient) -> None:
    pictures = await client.generate_images(dataclasses.replace(CALL, num_images=3))
    assert [picture.seed for picture in pictures] == [7, 8, 9]


async def test_latents_of_generate_are_accepted_by_refine(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    cut = dataclasses.replace(CALL, base_only=True, boundary=0.65, output="latents", num_images=2)
    latents = LatentsSource.of(await client.generate_images(cut))
    await client.refine_images(RefineCall(refiner=Stage(prompt="detail"), source=latents, seed=7))
    assert (engine.requests[-1].boundary, engine.requests[-1].skip_draws) == (0.65, 3)


async def test_names_of_adapters_become_digests(
    client: AsyncInferenceClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    digest = str(catalog.add("huggy", b"huggy").card.digest)
    choice = AdapterChoice(adapter="huggy", scale=0.5)
    await client.generate_images(dataclasses.replace(CALL, adapters=[choice]))
    (use,) = engine.requests[0].adapters
    assert (use.digest, use.name, use.scale, use.tenant) == (digest, "huggy", 0.5, "default")


async def test_unknown_adapter_ends_the_call(client: AsyncInferenceClient) -> None:
    choice = AdapterChoice(adapter="nobody")
    with pytest.raises(AdapterNotFound):
        await client.generate_images(dataclasses.replace(CALL, adapters=[choice]))


async def test_adapter_and_other_violations_are_told_at_once(client: AsyncInferenceClient) -> None:
    call = dataclasses.replace(CALL, width=1, adapters=[AdapterChoice(adapter="?")])
    with pytest.raises(InvalidRequest) as caught:
        await client.generate_images(call)
    fields = {violation.field for violation in caught.value.violations}
    assert {"width", "adapters[0].adapter"} <= fields


async def test_delivered_images_are_counted_by_format(
    client: AsyncInferenceClient, images_counted: list[str]
) -> None:
    await client.generate_images(dataclasses.replace(CALL, num_images=2, output="webp"))
    assert images_counted == ["webp", "webp"]


async def test_repeated_request_without_a_seed_paints_the_same(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    call = dataclasses.replace(CALL, seed=None, request_id="6a9c3a0e-3f0e-4b58-9a55-0d5b0f8a7a11")
    for _ in range(2):
        await client.generate_images(call)
    first, second = engine.requests
    assert first.seed == second.seed


async def test_refusal_arrives_with_its_fields(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    engine.refusal = QueueFull(waiting=9, limit=8, retry_after_s=2.5)
    with pytest.raises(QueueFull) as caught:
        await client.generate_images(CALL)
    assert (caught.value.limit, caught.value.retry_after_s) == (8, 2.5)


async def test_failure_after_the_first_step_arrives_typed(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    engine.failure = EngineFault("broken")
    with pytest.raises(EngineFault):
        await client.generate_images(CALL)


async def test_next_call_works_after_a_failure(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    engine.failure = EngineFault("broken")
    with pytest.raises(EngineFault):
        await client.generate_images(CALL)
    engine.failure = None
    assert len(await client.generate_images(CALL)) == 1


async def test_bad_request_never_reaches_the_engine(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    with pytest.raises(InvalidRequest):
        await client.generate_images(dataclasses.replace(CALL, num_steps=0))
    assert engine.requests == []


async def test_deadline_is_told_to_the_engine(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    await client.generate_images(CALL)
    deadline = engine.requests[0].deadline
    assert deadline is not None
    assert 0.0 < deadline - time.monotonic() < 31.0


async def test_leaving_a_call_gives_its_request_up(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    engine.hold = True
    events = client.generate(CALL)
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(engine.cancelled.wait, 10.0)


async def test_deadline_gives_a_request_up(
    client: AsyncInferenceClient, engine: FakeEngine
) -> None:
    engine.hold = True
    with pytest.raises(DeadlinePassed):
        async for _ in client.generate(CALL, timeout_s=0.5):
            pass
    assert await asyncio.to_thread(engine.cancelled.wait, 10.0)


async def test_call_before_the_engine_is_ready_is_told_to_wait(
    early_client: AsyncInferenceClient,
) -> None:
    with pytest.raises(Starting):
        await early_client.get_capabilities()


async def test_capabilities_name_what_is_hosted(client: AsyncInferenceClient) -> None:
    capabilities = await client.get_capabilities()
    assert [expert.family for expert in capabilities.experts] == ["nano", "nano"]


async def test_missing_expert_is_named(
    client: AsyncInferenceClient, service: InferenceService, hosted: Hosted, engine: FakeEngine
) -> None:
    alone = dataclasses.replace(hosted, refiner=None)
    service.open(Hosting(engine=engine, hosted=alone, catalog=FakeCatalog()))
    with pytest.raises(ExpertMissing, match="no refiner expert"):
        await client.generate_images(dataclasses.replace(CALL, boundary=0.5))


async def test_calls_at_the_same_time_do_not_mix(client: AsyncInferenceClient) -> None:
    calls = [dataclasses.replace(CALL, seed=seed) for seed in range(16)]
    results = await asyncio.gather(*(client.generate_images(call) for call in calls))
    seeds = [picture.seed for pictures in results for picture in pictures]
    assert seeds == list(range(16))
    assert all(isinstance(picture, Picture) for pictures in results for picture in pictures)

"""AdapterService over real gRPC, with a catalogue in memory and an engine without networks."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from diptych.clients.adapter_values import AdapterFilter, ImportCall, MergeCall
from diptych.clients.adapters import AsyncAdapterClient
from diptych.clients.config import ClientConfig
from diptych.errors import (
    AdapterInUse,
    AdapterMismatch,
    AdapterNotFound,
    AdapterSlotsFull,
    InvalidRequest,
    RequestCancelled,
    Starting,
)
from diptych.inference.adapters_service import ADAPTER_SERVICE_NAME, AdapterService
from diptych.inference.limits import Limits
from diptych.inference.orders import GoOn, ImportOrder, MergeOrder, Upload
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.server import RpcServer, ServerConfig
from diptych.v1 import adapters_pb2 as pb
from diptych.v1 import adapters_pb2_grpc as pb_grpc
from support.catalogs import FakeCatalog
from support.engines import FakeEngine

DATA = bytes(range(256)) * (5 * 1024)
"""Bytes of two chunks."""
MERGE = MergeCall(sources={"a": 1.0, "b": 0.5}, method="linear", name="both")


@pytest.fixture
def catalog() -> FakeCatalog:
    return FakeCatalog()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def server(catalog: FakeCatalog, engine: FakeEngine) -> AsyncIterator[RpcServer]:
    service = AdapterService(Limits())
    service.open(catalog, engine)
    async for server in serving(service):
        yield server


async def serving(service: AdapterService) -> AsyncIterator[RpcServer]:
    server = RpcServer(ServerConfig(port=0))
    server.add_service(ADAPTER_SERVICE_NAME, service, pb_grpc.add_AdapterServiceServicer_to_server)
    async with server:
        yield server
    service.close()


@pytest.fixture
async def client(server: RpcServer) -> AsyncIterator[AsyncAdapterClient]:
    async with AsyncAdapterClient(config_of(server)) as client:
        yield client


def config_of(server: RpcServer) -> ClientConfig:
    channel = ChannelConfig(address=f"127.0.0.1:{server.port}", max_attempts=1)
    return ClientConfig(channel=channel, timeout_s=30.0)


async def test_uploaded_bytes_arrive_whole(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    shown = await client.import_adapter(ImportCall(name="huggy", source=DATA))
    assert shown.digest == f"sha256:{hashlib.sha256(DATA).hexdigest()}"


async def test_upload_announces_its_file_and_digest(
    client: AsyncAdapterClient, catalog: FakeCatalog, tmp_path: Path
) -> None:
    file = tmp_path / "huggy.safetensors"
    file.write_bytes(DATA)
    await client.import_adapter(ImportCall(name="huggy", source=file, stage="refiner"))
    (order,) = catalog.orders
    assert isinstance(order, ImportOrder)
    digest = hashlib.sha256(DATA).digest()
    assert order.source == Upload(
        file_name="huggy.safetensors", size_bytes=len(DATA), sha256=digest
    )


async def test_uri_is_fetched_by_the_server(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    shown = await client.import_adapter(ImportCall(name="huggy", source="hf://owner/huggy"))
    assert shown.name == "huggy"


async def test_every_violation_of_a_header_is_told_at_once(client: AsyncAdapterClient) -> None:
    call = ImportCall(name="../huggy", source=b"x", tag="a:b", expected_digest="sha256:12")
    with pytest.raises(InvalidRequest) as caught:
        await client.import_adapter(call)
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["header.name", "header.tag", "header.expected_digest"]


@pytest.mark.parametrize("name", ["", "../up", "a\0b", "x" * 10_000, "a/b/c/d", "sha256"])
async def test_names_that_are_none_are_refused(name: str, client: AsyncAdapterClient) -> None:
    with pytest.raises(InvalidRequest):
        await client.import_adapter(ImportCall(name=name, source=DATA))


async def test_import_without_a_header_is_refused(server: RpcServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = pb_grpc.AdapterServiceStub(channel).ImportAdapter
        with pytest.raises(grpc.aio.AioRpcError, match="header"):
            await call(iter([pb.ImportAdapterRequest(chunk=b"x")]))


async def test_upload_that_breaks_off_is_discarded(server: RpcServer, catalog: FakeCatalog) -> None:
    header = pb.ImportAdapterHeader(name="huggy", upload=pb.AdapterUpload(size_bytes=10))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = pb_grpc.AdapterServiceStub(channel)
        call = stub.ImportAdapter()
        await call.write(pb.ImportAdapterRequest(header=header))
        await call.write(pb.ImportAdapterRequest(chunk=b"x"))
        assert await asyncio.to_thread(catalog.ordered.wait, 10)
        call.cancel()
        assert await asyncio.to_thread(catalog.discarded.wait, 10)
    assert catalog.adapters == {}


async def test_adapter_is_shown_with_its_place(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    catalog.add("huggy", b"huggy")
    shown = await client.get("huggy")
    assert (shown.family, shown.max_rank, shown.residency.tier) == ("nano", 4, "disk")


async def test_unknown_adapter_is_not_found(client: AsyncAdapterClient) -> None:
    with pytest.raises(AdapterNotFound):
        await client.get("nobody")


async def test_list_goes_through_all_pages(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    for name in ("a", "b", "c"):
        catalog.add(name, name.encode())
    assert [shown.name async for shown in client.list_adapters()] == ["a", "b", "c"]


async def test_unknown_kind_is_refused(client: AsyncAdapterClient) -> None:
    with pytest.raises(InvalidRequest, match="kind"):
        _ = [one async for one in client.list_adapters(AdapterFilter(kind="magic"))]


async def test_loaded_adapter_is_pinned_on_the_device(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    catalog.add("huggy", b"huggy")
    residency = (await client.load("huggy")).residency
    assert (residency.tier, residency.pinned) == ("device", True)


async def test_load_that_is_answered_keeps_its_pin(
    client: AsyncAdapterClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    catalog.add("huggy", b"huggy")
    await client.load("huggy")
    assert (engine.kept, engine.given_up) == (engine.pins, [])


async def test_cancelled_load_gives_its_pin_up(
    client: AsyncAdapterClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    digest = str(catalog.add("huggy", b"huggy").card.digest)
    engine.holds_pins = True
    loading = asyncio.ensure_future(client.load("huggy"))
    assert await asyncio.to_thread(engine.asked_to_pin.wait, 10)
    loading.cancel()
    assert await asyncio.to_thread(engine.heard_of_giving_up.wait, 10)
    assert (engine.given_up, engine.kept) == ([("default", digest)], [])


async def test_load_whose_answer_cannot_be_told_gives_its_pin_up(
    client: AsyncAdapterClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    digest = str(catalog.add("huggy", b"huggy").card.digest)
    engine.on_pin = catalog.adapters.clear
    with pytest.raises(AdapterNotFound):
        await client.load("huggy")
    assert (engine.given_up, engine.kept) == ([("default", digest)], [])


async def test_pins_and_requests_of_other_tenants_are_not_shown(
    client: AsyncAdapterClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    theirs = ("lab", str(catalog.add("huggy", b"huggy").card.digest))
    engine.pins, engine.users = [theirs], {theirs: 3}
    residency = (await client.get("huggy")).residency
    assert (residency.pinned, residency.num_requests) == (False, 0)
    await client.delete("huggy")


async def test_unloaded_adapter_is_pinned_no_more(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    catalog.add("huggy", b"huggy")
    await client.load("huggy")
    assert not (await client.unload("huggy")).residency.pinned


async def test_unloading_what_is_not_loaded_is_not_found(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    catalog.add("huggy", b"huggy")
    with pytest.raises(AdapterNotFound):
        await client.unload("huggy")


async def test_device_without_room_says_so(
    client: AsyncAdapterClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    catalog.add("huggy", b"huggy")
    engine.refusal_to_pin = AdapterSlotsFull(needed_lines=8, num_lines=4)
    with pytest.raises(AdapterSlotsFull):
        await client.load("huggy")


async def test_deleted_name_is_gone(client: AsyncAdapterClient, catalog: FakeCatalog) -> None:
    catalog.add("huggy", b"huggy")
    await client.delete("huggy")
    assert catalog.adapters == {}


async def test_pinned_adapter_is_not_deleted(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    catalog.add("huggy", b"huggy")
    await client.load("huggy")
    with pytest.raises(AdapterInUse, match="kept on the device"):
        await client.delete("huggy")


async def test_running_adapter_is_not_deleted(
    client: AsyncAdapterClient, catalog: FakeCatalog, engine: FakeEngine
) -> None:
    engine.users = {("default", str(catalog.add("huggy", b"huggy").card.digest)): 3}
    with pytest.raises(AdapterInUse) as caught:
        await client.delete("huggy")
    assert caught.value.num_requests == 3


async def test_digest_is_not_deleted(client: AsyncAdapterClient) -> None:
    with pytest.raises(InvalidRequest, match="is a digest"):
        await client.delete(f"sha256:{'0' * 64}")


async def test_merge_tells_progress_and_result(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    told: list[tuple[int, int]] = []
    gone_on = threading.Event()
    catalog.before_merge = lambda _: assert_set(gone_on)

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        gone_on.set()

    result = await client.merge(MERGE, progress=progress)
    assert (told, [layer.target for layer in result.layers]) == (
        [(1, 2)],
        ["unet.conv_out", "unet.conv_in"],
    )


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


async def test_renamed_tokens_name_their_source(client: AsyncAdapterClient) -> None:
    assert (await client.merge(MERGE)).renamed_tokens == {"b <s0>": "<s0-2>"}


async def test_weights_of_a_merge_are_passed_on(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    await client.merge(MERGE)
    (order,) = catalog.orders
    assert isinstance(order, MergeOrder)
    assert order.spec.weights == (1.0, 0.5)


async def test_merge_is_told_when_its_caller_leaves(
    client: AsyncAdapterClient, catalog: FakeCatalog
) -> None:
    left = threading.Event()

    def until_left(go_on: GoOn) -> None:
        for _ in range(1000):
            try:
                go_on()
            except RequestCancelled:
                left.set()
                raise
            threading.Event().wait(0.01)

    catalog.before_merge = until_left
    merging = asyncio.ensure_future(client.merge(MERGE))
    assert await asyncio.to_thread(catalog.ordered.wait, 10)
    merging.cancel()
    assert await asyncio.to_thread(left.wait, 10)


async def test_refused_merge_leaves_typed(client: AsyncAdapterClient, catalog: FakeCatalog) -> None:
    catalog.refusal = AdapterMismatch(adapter="b", field="family", made_for="x", used_on="y")
    with pytest.raises(AdapterMismatch):
        await client.merge(MERGE)


async def test_exported_file_lies_where_it_was_asked(
    client: AsyncAdapterClient, catalog: FakeCatalog, tmp_path: Path
) -> None:
    catalog.add("huggy", b"huggy")
    out = tmp_path / "huggy.safetensors"
    await client.export("huggy", out, target_format="kohya")
    assert out.read_bytes() == b"huggy as kohya"


async def test_export_of_nothing_leaves_nothing(client: AsyncAdapterClient, tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFound):
        await client.export("nobody", tmp_path / "out")
    assert names_in(tmp_path) == []


async def test_calls_before_the_catalogue_is_open_are_told_to_retry() -> None:
    async for server in serving(AdapterService(Limits())):
        async with AsyncAdapterClient(config_of(server)) as client:
            with pytest.raises(Starting):
                await client.get("huggy")

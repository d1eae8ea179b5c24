"""Both clients of adapters against a real server; see also ``test_adapters_service``."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diptych.clients.adapter_values import ImportCall, MergeCall
from diptych.clients.adapters import AdapterClient, AsyncAdapterClient
from diptych.clients.config import ClientConfig
from diptych.errors import (
    AdapterNotFound,
    InvalidRequest,
    NameTaken,
    ServerUnreachable,
)
from diptych.inference.adapters_service import ADAPTER_SERVICE_NAME, AdapterService
from diptych.inference.limits import Limits
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.server import RpcServer, ServerConfig
from diptych.v1.adapters_pb2_grpc import add_AdapterServiceServicer_to_server
from support.catalogs import FakeCatalog
from support.engines import FakeEngine


@pytest.fixture
def catalog() -> FakeCatalog:
    return FakeCatalog()


@pytest.fixture
def config(catalog: FakeCatalog) -> Iterator[ClientConfig]:
    """Serve ``catalog`` in a thread, as a synchronous client needs it."""
    ports: list[int] = []
    ready = threading.Event()
    ends: list[object] = []

    async def main() -> None:
        service = AdapterService(Limits())
        service.open(catalog, FakeEngine())
        server = RpcServer(ServerConfig(port=0))
        server.add_service(ADAPTER_SERVICE_NAME, service, add_AdapterServiceServicer_to_server)
        ended = asyncio.Event()
        async with server:
            ports.append(server.port)
            loop = asyncio.get_running_loop()
            ends.append(lambda: loop.call_soon_threadsafe(ended.set))
            ready.set()
            await ended.wait()
        service.close()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, main())
        assert ready.wait(30)
        channel = ChannelConfig(address=f"127.0.0.1:{ports[0]}", max_attempts=1)
        yield ClientConfig(channel=channel, timeout_s=30.0)
        ends[0]()  # type: ignore[operator]
        serving.result(30)


@pytest.fixture
def client(config: ClientConfig) -> Iterator[AdapterClient]:
    with AdapterClient(config) as client:
        yield client


def test_imported_adapter_is_listed(client: AdapterClient) -> None:
    client.import_adapter(ImportCall(name="huggy", source=b"data"))
    assert [one.name for one in client.list_adapters()] == ["huggy"]


def test_import_tells_its_progress(client: AdapterClient) -> None:
    told: list[tuple[int, int]] = []
    call = ImportCall(name="huggy", source=b"data")
    client.import_adapter(call, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 4)]


def test_file_that_cannot_be_read_is_told_as_such(client: AdapterClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        client.import_adapter(ImportCall(name="huggy", source=tmp_path / "none.safetensors"))


def test_refusal_before_the_last_chunk_keeps_its_reason(client: AdapterClient) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        client.import_adapter(ImportCall(name="..", source=bytes(16 << 20)))


def test_load_unload_and_delete_go_through(client: AdapterClient, catalog: FakeCatalog) -> None:
    catalog.add("huggy", b"huggy")
    states = [client.load("huggy").residency.pinned, client.unload("huggy").residency.pinned]
    client.delete("huggy")
    assert (states, catalog.adapters) == ([True, False], {})


def test_merge_returns_its_result(client: AdapterClient) -> None:
    call = MergeCall(sources={"a": 1.0, "b": 1.0}, method="linear", name="both")
    assert client.merge(call).adapter.name == "both"


def test_refused_merge_keeps_its_fields(client: AdapterClient, catalog: FakeCatalog) -> None:
    catalog.refusal = NameTaken(name="both", actual="sha256:aa")
    call = MergeCall(sources={"a": 1.0, "b": 1.0}, method="linear", name="both")
    with pytest.raises(NameTaken) as caught:
        client.merge(call)
    assert caught.value.name == "both"


def test_unknown_format_is_refused_before_the_call(client: AdapterClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="bundle, diffusers, peft, kohya"):
        client.export("huggy", tmp_path / "out", target_format="pickle")


def test_export_writes_the_file(
    client: AdapterClient, catalog: FakeCatalog, tmp_path: Path
) -> None:
    catalog.add("huggy", b"huggy")
    (path,) = client.export("huggy", tmp_path / "h.safetensors")
    assert path.read_bytes() == b"huggy as bundle"


async def test_asyncio_client_tells_progress_in_its_loop(config: ClientConfig) -> None:
    threads: set[int] = set()
    async with AsyncAdapterClient(config) as client:
        await client.import_adapter(
            ImportCall(name="huggy", source=b"data"),
            progress=lambda *_: threads.add(threading.get_ident()),
        )
        await client.get("huggy")
    assert threads == {threading.get_ident()}


async def test_asyncio_client_keeps_the_reason_of_a_refusal(config: ClientConfig) -> None:
    async with AsyncAdapterClient(config) as client:
        with pytest.raises(InvalidRequest, match="name"):
            await client.import_adapter(ImportCall(name="..", source=bytes(16 << 20)))


async def test_asyncio_client_finds_nothing_typed(config: ClientConfig) -> None:
    async with AsyncAdapterClient(config) as client:
        with pytest.raises(AdapterNotFound):
            await client.get("nobody")


def test_server_that_is_not_there_is_unreachable(free_port: int) -> None:
    channel = ChannelConfig(address=f"127.0.0.1:{free_port}", max_attempts=1)
    with (
        AdapterClient(ClientConfig(channel=channel, timeout_s=5.0)) as client,
        pytest.raises(ServerUnreachable),
    ):
        client.get("huggy")

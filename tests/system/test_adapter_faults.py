"""What can go wrong with adapters, done for real over gRPC: it is named, and leaves nothing."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diptych.clients.adapter_values import ImportCall
from diptych.clients.adapters import AdapterClient
from diptych.clients.calls import AdapterChoice, GenerateCall, Stage
from diptych.clients.config import meaning
from diptych.clients.events import Picture, Progress
from diptych.clients.inference import InferenceClient
from diptych.errors import (
    AdapterInUse,
    AdapterNotFound,
    DigestMismatch,
    InvalidRequest,
    NameMoved,
    StoreFull,
)
from diptych.inference.server import BackgroundServer
from diptych.nano.pair import adapter_path
from diptych.rpc.channel import open_channel
from diptych.v1 import adapters_pb2 as pb
from diptych.v1 import adapters_pb2_grpc as pb_grpc
from support.full_disk import files_no_larger_than
from support.servers import adapters_of, config_of

NIGHT = adapter_path("night").read_bytes()
CALL = GenerateCall(
    base=Stage(prompt="a red circle"),
    base_only=True,
    seed=11,
    num_steps=60,
    num_images=3,
    width=64,
    height=64,
    adapters=[AdapterChoice(adapter="night")],
)
NO_NAMES = {
    "up": "../night",
    "up and down": "me/../../night",
    "absolute": "/etc/passwd",
    "NUL": "ni\0ght",
    "10,000 characters": "n" * 10_000,
    "nothing": "",
    "capitals": "Night",
    "a space": "ni ght",
    "backslashes": "..\\night",
    "four parts": "a/b/c/d",
}


@pytest.fixture
def adapters(server: BackgroundServer) -> Iterator[AdapterClient]:
    with adapters_of(server) as adapters:
        yield adapters


@pytest.fixture
def importing(server: BackgroundServer) -> Iterator[Any]:
    """Return ``ImportAdapter`` as it is on the wire."""
    with open_channel(config_of(server).channel) as channel:
        yield pb_grpc.AdapterServiceStub(channel).ImportAdapter


@pytest.fixture
def folder(home: str) -> Path:
    return Path(home, "adapters")


def files_in(folder: Path) -> set[Path]:
    """Return everything that is stored or comes in."""
    return {path for path in folder.rglob("*") if path.is_file()}


def messages(name: str, data: bytes, *, announced: bytes) -> list[pb.ImportAdapterRequest]:
    """Return an upload of ``data`` that is said to have the digest of ``announced``."""
    sha256 = hashlib.sha256(announced).digest()
    upload = pb.AdapterUpload(size_bytes=len(announced), sha256=sha256)
    header = pb.ImportAdapterHeader(name=name, upload=upload)
    return [pb.ImportAdapterRequest(header=header), pb.ImportAdapterRequest(chunk=data)]


def until(is_so: Callable[[], bool]) -> bool:
    """Return whether something becomes so within ten seconds."""
    waiting = threading.Event()
    return any(is_so() or waiting.wait(0.02) for _ in range(500))


def test_what_requests_run_with_is_not_evicted(
    client: InferenceClient, adapters: AdapterClient
) -> None:
    adapters.load("night")
    events = client.generate(CALL)
    started = next(event for event in events if isinstance(event, Progress))
    with pytest.raises(AdapterInUse) as caught:
        adapters.unload("night", evict=True)
    with pytest.raises(AdapterInUse, match="in use by 1 request and kept"):
        adapters.delete("night")
    pictures = [event for event in events if isinstance(event, Picture)]
    assert (started.step, caught.value.num_requests, len(pictures)) == (1, 1, 3)
    assert adapters.unload("night", evict=True).residency.tier != "device"


def test_of_two_clients_who_move_a_name_at_once_one_is_told(adapters: AdapterClient) -> None:
    first = adapters.import_adapter(ImportCall(name="moved", source=NIGHT))
    together = threading.Barrier(2)

    def move(word: str) -> str | NameMoved:
        call = ImportCall(
            name="moved", source=NIGHT, trigger_words=(word,), expected_digest=first.digest
        )
        together.wait(10)
        try:
            return adapters.import_adapter(call).digest
        except NameMoved as moved:
            return moved

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(move, ("one", "two")))
    (winner,) = [end for end in ends if isinstance(end, str)]
    (told,) = [end for end in ends if isinstance(end, NameMoved)]
    assert (adapters.get("moved").digest, told.actual) == (winner, winner)


def test_import_that_is_cancelled_half_way_leaves_nothing(
    importing: Any, adapters: AdapterClient, folder: Path
) -> None:
    before, gone = files_in(folder), threading.Event()

    def half() -> Iterator[pb.ImportAdapterRequest]:
        header, chunk = messages("half", NIGHT[: len(NIGHT) // 2], announced=NIGHT)
        yield header
        yield chunk
        gone.wait(10)

    call = importing.future(half())
    assert until(lambda: any((folder / "incoming").iterdir()))
    call.cancel()
    gone.set()
    assert until(lambda: files_in(folder) == before)
    with pytest.raises(AdapterNotFound):
        adapters.get("half")


def test_disk_that_is_full_is_told_and_leaves_nothing(
    adapters: AdapterClient, folder: Path
) -> None:
    before = files_in(folder)
    call = ImportCall(name="large", source=NIGHT, trigger_words=("large",))
    with files_no_larger_than(len(NIGHT) // 2), pytest.raises(StoreFull):
        adapters.import_adapter(call)
    assert files_in(folder) == before
    assert adapters.import_adapter(call).name == "large"


def test_bytes_of_another_digest_are_refused_and_leave_nothing(
    server: BackgroundServer, importing: Any, adapters: AdapterClient, folder: Path
) -> None:
    before = files_in(folder)
    damaged = bytearray(NIGHT)
    damaged[-1] ^= 1
    sent = importing.future(iter(messages("damaged", bytes(damaged), announced=NIGHT)))
    refusal = meaning(sent.exception(timeout=30), config_of(server), "r")
    assert isinstance(refusal, DigestMismatch)
    assert until(lambda: files_in(folder) == before)
    with pytest.raises(AdapterNotFound):
        adapters.get("damaged")


CALLS: dict[str, Callable[[AdapterClient, str, Path], object]] = {
    "import": lambda client, name, _: client.import_adapter(ImportCall(name=name, source=NIGHT)),
    "get": lambda client, name, _: client.get(name),
    "load": lambda client, name, _: client.load(name),
    "unload": lambda client, name, _: client.unload(name),
    "delete": lambda client, name, _: client.delete(name),
    "export": lambda client, name, out: client.export(name, out / "out"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_none_are_refused_and_touch_nothing(
    name: str, call: str, adapters: AdapterClient, folder: Path, tmp_path: Path
) -> None:
    before = files_in(folder.parent)
    with pytest.raises(InvalidRequest):
        CALLS[call](adapters, NO_NAMES[name], tmp_path)
    assert files_in(folder.parent) == before


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_none_are_refused_in_a_request(name: str, client: InferenceClient) -> None:
    call = dataclasses.replace(CALL, adapters=[AdapterChoice(adapter=NO_NAMES[name])])
    with pytest.raises(InvalidRequest) as caught:
        client.generate_images(call)
    assert {violation.field for violation in caught.value.violations} == {"adapters[0].adapter"}

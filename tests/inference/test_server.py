"""The service comes up in order, drains in order, and says what stops it from coming up."""

import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diptych.clients.calls import GenerateCall, Stage
from diptych.clients.inference import ClientConfig, InferenceClient
from diptych.errors import (
    Draining,
    EngineFault,
    ExtraMissing,
    InvalidRequest,
    ModelNotFound,
    SettingInvalid,
    TokenRefused,
    Unavailable,
)
from diptych.inference.hosted import Hosted
from diptych.inference.server import BackgroundServer, Load, Loaded
from diptych.inference.settings import InferenceSettings, Settings
from diptych.rpc.channel import ChannelConfig
from support.catalogs import FakeCatalog
from support.engines import FakeEngine

CALL = GenerateCall(base=Stage(prompt="a red circle"), seed=7)
SERVING = health_pb2.HealthCheckResponse.SERVING

Start = Callable[..., BackgroundServer]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def settings(**own: object) -> Settings:
    free = {"port": 0, "metrics_port": 0, "health_port": 0, "grace_s": 5.0}
    return Settings(inference=InferenceSettings(**free | own))  # type: ignore[arg-type]


def loading(engine: FakeEngine, hosted: Hosted) -> Load:
    return lambda _settings, _metrics: Loaded(
        engine=engine, hosted=hosted, catalog=FakeCatalog(), num_slots=4
    )


@pytest.fixture
def start(engine: FakeEngine, hosted: Hosted) -> Iterator[Start]:
    started: list[BackgroundServer] = []

    def start(**own: object) -> BackgroundServer:
        server = BackgroundServer(settings(**own), loading(engine, hosted))
        started.append(server)
        server.start(timeout_s=30.0)
        return server

    yield start
    engine.cancelled.set()
    for server in started:
        server.stop()


def client_of(server: BackgroundServer) -> InferenceClient:
    channel = ChannelConfig(address=server.address, max_attempts=1)
    return InferenceClient(ClientConfig(channel=channel, timeout_s=30.0))


def health(port: int | None, probe: str) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=probe), timeout=10.0)
    return int(answer.status)


def scraped(server: BackgroundServer) -> str:
    url = f"http://127.0.0.1:{server.ports.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10.0) as answer:
        body: bytes = answer.read()
    return body.decode()


def counted(server: BackgroundServer, line: str) -> bool:
    """Return whether ``line`` gets scraped; a call is counted just after its caller was told."""
    return any(line in scraped(server) for _ in range(50))


def test_started_server_paints(start: Start) -> None:
    with client_of(start()) as client:
        assert len(client.generate_images(CALL)) == 1


@pytest.mark.parametrize("probe", ["startup", "readiness", "liveness", ""])
def test_started_server_is_healthy_on_its_plain_port(probe: str, start: Start) -> None:
    assert health(start().ports.health_port, probe) == SERVING


def test_server_that_loads_is_not_ready_yet(engine: FakeEngine, hosted: Hosted) -> None:
    loaded, port = threading.Event(), socket.create_server(("127.0.0.1", 0))
    number = port.getsockname()[1]
    port.close()

    def load(*_: object) -> Loaded:
        loaded.wait(30.0)
        return Loaded(engine=engine, hosted=hosted, catalog=FakeCatalog(), num_slots=4)

    server = BackgroundServer(settings(health_port=number), load)
    with pytest.raises(Unavailable, match="not ready within"):
        server.start(timeout_s=0.5)
    probes = [health(number, probe) == SERVING for probe in ("startup", "readiness", "liveness")]
    loaded.set()
    server.stop()
    assert probes == [False, False, True]


def test_metrics_count_calls_and_images(start: Start) -> None:
    server = start()
    with client_of(server) as client:
        client.generate_images(CALL)
    assert counted(server, 'diptych_requests_total{code="OK",method="Generate"} 1.0')
    assert counted(server, 'diptych_images_total{format="png"} 1.0')


def test_what_the_engine_called_is_ended_after_it(engine: FakeEngine, hosted: Hosted) -> None:
    was_stopped: list[bool] = []

    def load(*_: object) -> Loaded:
        return Loaded(
            engine=engine,
            hosted=hosted,
            catalog=FakeCatalog(),
            num_slots=4,
            close=lambda: was_stopped.append(engine.stopped.is_set()),
        )

    server = BackgroundServer(settings(), load)
    server.start(timeout_s=30.0)
    server.stop()
    assert was_stopped == [True]


def test_metrics_count_errors_by_reason(start: Start) -> None:
    server = start()
    with client_of(server) as client, pytest.raises(InvalidRequest):
        client.generate_images(GenerateCall(base=Stage(prompt="x"), num_steps=0))
    assert counted(server, 'diptych_request_errors_total{reason="INVALID_REQUEST"} 1.0')


def test_metrics_show_the_engines_load(start: Start, engine: FakeEngine) -> None:
    engine.hold = True
    server = start()
    with client_of(server) as client, ThreadPoolExecutor(1) as caller:
        images = caller.submit(client.generate_images, CALL)
        assert engine.submitted.wait(10.0)
        page = scraped(server)
        engine.finish()
        images.result(timeout=10.0)
    assert "\ndiptych_num_requests_running 1.0\n" in page
    assert "\ndiptych_num_slots_used 1.0\n" in page


def test_no_metrics_port_is_opened_when_none_is_wanted(start: Start) -> None:
    assert start(metrics_port=None).ports.metrics_port is None


def test_drain_lets_a_running_call_finish(start: Start, engine: FakeEngine) -> None:
    engine.hold = True
    server = start()
    with client_of(server) as client, ThreadPoolExecutor(2) as threads:
        images = threads.submit(client.generate_images, CALL)
        assert engine.submitted.wait(10.0)
        stopping = threads.submit(server.stop)
        engine.finish()
        assert len(images.result(timeout=20.0)) == 1
        engine.cancelled.set()
        stopping.result(timeout=20.0)


def test_drain_hands_back_what_does_not_finish(start: Start, engine: FakeEngine) -> None:
    engine.hold = True
    server = start(grace_s=0.1)
    with client_of(server) as client, ThreadPoolExecutor(2) as threads:
        images = threads.submit(client.generate_images, CALL)
        assert engine.submitted.wait(10.0)
        threads.submit(server.stop).result(timeout=20.0)
        with pytest.raises(Draining):
            images.result(timeout=20.0)


def test_stopped_server_has_stopped_its_engine(start: Start, engine: FakeEngine) -> None:
    start().stop()
    assert engine.stopped.is_set()


@pytest.mark.parametrize("probe", ["liveness", "readiness", "diptych.v1.InferenceService"])
def test_server_whose_engine_has_died_says_so(probe: str, start: Start, engine: FakeEngine) -> None:
    with grpc.insecure_channel(start().address) as channel:
        request = health_pb2.HealthCheckRequest(service=probe)
        answers = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=30.0)
        before = next(answers).status
        engine.fault = EngineFault("its thread has ended")
        after = next(answers).status
        answers.cancel()
    assert (before, after) == (SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)


def test_server_whose_engine_does_not_get_warm_says_why(engine: FakeEngine, hosted: Hosted) -> None:
    engine.fault = EngineFault("compiling failed")
    with pytest.raises(EngineFault, match="compiling failed"):
        BackgroundServer(settings(), loading(engine, hosted)).start(timeout_s=30.0)
    assert engine.stopped.is_set()


def test_server_that_is_stopped_while_it_loads_starts_no_engine(
    engine: FakeEngine, hosted: Hosted
) -> None:
    loads, loaded = threading.Event(), threading.Event()

    def load(*_: object) -> Loaded:
        loads.set()
        loaded.wait(30.0)
        return Loaded(engine=engine, hosted=hosted, catalog=FakeCatalog(), num_slots=4)

    server = BackgroundServer(settings(), load)
    with ThreadPoolExecutor(2) as threads:
        starting = threads.submit(server.start, timeout_s=30.0)
        assert loads.wait(30.0)
        stopping = threads.submit(server.stop)
        wait([stopping], timeout=1.0)  # it is asked, and cannot end before what loads
        loaded.set()
        stopping.result(timeout=20.0)
        with pytest.raises(Unavailable):
            starting.result(timeout=20.0)
    assert not engine.started.is_set()


def test_load_that_fails_is_told(engine: FakeEngine) -> None:
    def load(*_: object) -> Loaded:
        raise ModelNotFound("absent")

    server = BackgroundServer(settings(), load)
    with pytest.raises(ModelNotFound):
        server.start(timeout_s=30.0)


def test_port_that_is_taken_is_named(engine: FakeEngine, hosted: Hosted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = settings(metrics_port=taken.getsockname()[1])
        server = BackgroundServer(own, loading(engine, hosted))
        with pytest.raises(SettingInvalid, match="metrics_port"):
            server.start(timeout_s=30.0)


def test_caller_without_a_listed_token_is_refused(start: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"acme {'0' * 64}\n")
    server = start(auth_tokens_file=tokens)
    with client_of(server) as client, pytest.raises(TokenRefused):
        client.get_capabilities()


def test_an_installation_without_the_extra_is_told_which_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "diptych.inference.loading", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'diptych\[inference\]'"):
        BackgroundServer(settings()).start(timeout_s=30.0)

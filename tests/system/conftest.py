"""Real servers with the embedded pair, on free loopback ports of this process."""

from collections.abc import Iterator

import pytest

from diptych.clients.inference import ClientConfig, InferenceClient
from diptych.inference.server import BackgroundServer
from diptych.inference.settings import InferenceSettings, Settings
from diptych.rpc.channel import ChannelConfig

START_TIMEOUT_S = 110.0


def running(home: str, **own: object) -> Iterator[BackgroundServer]:
    """Serve until the test session ends."""
    inference = InferenceSettings(port=0, metrics_port=0, grace_s=1.0, **own)  # type: ignore[arg-type]
    server = BackgroundServer(Settings(home=home, inference=inference))  # type: ignore[arg-type]
    server.start(timeout_s=START_TIMEOUT_S)
    yield server
    server.stop()


def connected(server: BackgroundServer) -> Iterator[InferenceClient]:
    """Give a client of ``server`` that tries each call once."""
    channel = ChannelConfig(address=server.address, max_attempts=1)
    with InferenceClient(ClientConfig(channel=channel, timeout_s=100.0)) as client:
        yield client


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def server(home: str) -> Iterator[BackgroundServer]:
    """Return a server that hosts both experts."""
    yield from running(home)


@pytest.fixture(scope="session")
def base_server(home: str, server: BackgroundServer) -> Iterator[BackgroundServer]:
    """Return a server that hosts the base and hands latents over to ``server``."""
    yield from running(home, refiner_peer=server.address)


@pytest.fixture(scope="session")
def client(server: BackgroundServer) -> Iterator[InferenceClient]:
    """Return a client of the server with both experts."""
    yield from connected(server)


@pytest.fixture(scope="session")
def base_client(base_server: BackgroundServer) -> Iterator[InferenceClient]:
    """Return a client of the server whose refiner is at a peer."""
    yield from connected(base_server)

"""Real servers with the embedded pair, on free loopback ports of this process."""

from collections.abc import Iterator

import pytest

from diptych.clients.inference import InferenceClient
from diptych.inference.server import BackgroundServer
from support.servers import painter_of, running


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def server(home: str) -> Iterator[BackgroundServer]:
    """Return a server that hosts both experts."""
    with running(home) as server:
        yield server


@pytest.fixture(scope="session")
def base_server(home: str, server: BackgroundServer) -> Iterator[BackgroundServer]:
    """Return a server that hosts the base and hands latents over to ``server``."""
    with running(home, refiner_peer=server.address) as base_server:
        yield base_server


@pytest.fixture(scope="session")
def client(server: BackgroundServer) -> Iterator[InferenceClient]:
    """Return a client of the server with both experts."""
    with painter_of(server) as client:
        yield client


@pytest.fixture(scope="session")
def base_client(base_server: BackgroundServer) -> Iterator[InferenceClient]:
    """Return a client of the server whose refiner is at a peer."""
    with painter_of(base_server) as client:
        yield client

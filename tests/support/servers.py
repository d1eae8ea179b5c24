"""Real servers with the embedded pair, in threads of this process on free loopback ports."""

from collections.abc import Iterator
from contextlib import contextmanager

from diptych.clients.adapters import AdapterClient
from diptych.clients.config import ClientConfig
from diptych.clients.inference import InferenceClient
from diptych.inference.server import BackgroundServer
from diptych.inference.settings import InferenceSettings, Settings
from diptych.rpc.channel import ChannelConfig

__all__ = ["adapters_of", "config_of", "painter_of", "running"]

START_TIMEOUT_S = 110.0
CALL_TIMEOUT_S = 100.0


@contextmanager
def running(home: str, **own: object) -> Iterator[BackgroundServer]:
    """Serve from ``home`` with settings of the inference service's own."""
    inference = InferenceSettings(port=0, metrics_port=0, grace_s=1.0, **own)  # type: ignore[arg-type]
    server = BackgroundServer(Settings(home=home, inference=inference))  # type: ignore[arg-type]
    server.start(timeout_s=START_TIMEOUT_S)
    try:
        yield server
    finally:
        server.stop()


def config_of(server: BackgroundServer, **identity: str | None) -> ClientConfig:
    """Return the configuration of a client of ``server`` that tries each call once."""
    channel = ChannelConfig(address=server.address, max_attempts=1)
    return ClientConfig(channel=channel, timeout_s=CALL_TIMEOUT_S, **identity)


def painter_of(server: BackgroundServer, **identity: str | None) -> InferenceClient:
    """Return a client of ``server``; ``identity`` is a token, and a tenant to act for."""
    return InferenceClient(config_of(server, **identity))


def adapters_of(server: BackgroundServer, **identity: str | None) -> AdapterClient:
    """Return a client of the adapters of ``server``."""
    return AdapterClient(config_of(server, **identity))

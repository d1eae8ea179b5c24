"""Where a command's calls go: a server that runs already, or one inside this process.

There is one path: the embedded server is the real service on a free loopback port.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from diptych.cli.report import Report
from diptych.clients.adapters import AdapterClient
from diptych.clients.config import ClientConfig
from diptych.clients.inference import InferenceClient
from diptych.errors import ExtraMissing, FieldViolation, InvalidRequest
from diptych.inference.settings import Settings, load_settings
from diptych.rpc.channel import ChannelConfig

__all__ = [
    "check_models",
    "client_config",
    "connect",
    "connect_adapters",
    "embedded_settings",
    "model_sources",
    "need_extra",
    "reach",
]

NEEDED: Final = ("torch", "diffusers", "transformers")
READY_TIMEOUT_S: Final = 900.0
"""Loading and warming a large checkpoint takes minutes."""


@contextmanager
def connect(
    report: Report,
    server: str | None,
    *,
    base: str | None = None,
    refiner: str | None = None,
    token_file: Path | None = None,
) -> Iterator[InferenceClient]:
    """Give a client that paints, of the server that ``reach`` finds or embeds."""
    with (
        reach(report, server, base=base, refiner=refiner, token_file=token_file) as config,
        InferenceClient(config) as client,
    ):
        yield client


@contextmanager
def connect_adapters(
    report: Report,
    server: str | None,
    *,
    base: str | None = None,
    refiner: str | None = None,
    token_file: Path | None = None,
) -> Iterator[AdapterClient]:
    """Give a client of the adapters of the server that ``reach`` finds or embeds.

    Raises:
        InvalidRequest: Models are named for a server that has its own.
    """
    check_models(server, base=base, refiner=refiner)
    with (
        reach(report, server, base=base, refiner=refiner, token_file=token_file) as config,
        AdapterClient(config) as client,
    ):
        yield client


@contextmanager
def reach(
    report: Report,
    server: str | None,
    *,
    base: str | None = None,
    refiner: str | None = None,
    token_file: Path | None = None,
) -> Iterator[ClientConfig]:
    """Tell how to call ``server``, or one that is embedded here for as long as this lasts.

    ``base`` and ``refiner`` are the embedded server's.

    Raises:
        ExtraMissing: There is nothing to embed.
    """
    if server is not None:
        yield client_config(server, token_file)
        return
    need_extra("the embedded engine")
    from diptych.inference.server import BackgroundServer

    with report.waiting("loading the experts"):
        running = BackgroundServer(embedded_settings(base=base, refiner=refiner))
        running.start(timeout_s=READY_TIMEOUT_S)
    try:
        yield ClientConfig(channel=ChannelConfig(address=running.address))
    finally:
        running.stop()


def client_config(server: str, token_file: Path | None = None) -> ClientConfig:
    """Return how to call a server, with the token that a file holds if one is named."""
    token = token_file.read_text().strip() if token_file else None
    return ClientConfig(channel=ChannelConfig(address=server), token=token)


def check_models(server: str | None, *, base: str | None, refiner: str | None) -> None:
    """Check that models are named only for a server that is embedded.

    Raises:
        InvalidRequest: Models are named for a server that has its own.
    """
    if server is not None and (base is not None or refiner is not None):
        raise InvalidRequest(
            [FieldViolation(field="--server", description="it has its own --base, --refiner")]
        )


def embedded_settings(*, base: str | None, refiner: str | None) -> Settings:
    """Return the process's settings, on free loopback ports and without metrics.

    Its caller is the user of this machine, who may read adapters from any bucket that it may.
    """
    own: dict[str, object] = {
        "host": "127.0.0.1",
        "port": 0,
        "health_port": None,
        "metrics_port": None,
        "auth_tokens_file": None,
        "trusted_peers": (),
        "adapter_import_prefixes": ("s3://",),
    }
    return load_settings(arguments={"inference": own | model_sources(base, refiner)})


def model_sources(base: str | None, refiner: str | None) -> dict[str, str | None]:
    """Return the settings that --base and --refiner make; ``none`` hosts no such expert."""
    given = {"base": base, "refiner": refiner}
    return {
        name: None if source == "none" else source
        for name, source in given.items()
        if source is not None
    }


def need_extra(
    purpose: str, *, extra: str = "inference", modules: tuple[str, ...] | None = None
) -> None:
    """Check that an optional part of the package is installed, by default what runs networks.

    Raises:
        ExtraMissing: It is not.
    """
    if any(find_spec(name) is None for name in modules or NEEDED):
        raise ExtraMissing(extra=extra, needed_for=purpose)

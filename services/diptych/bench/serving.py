"""The real server, inside this process and over loopback, opened up enough to be measured."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from diptych.bench.recipes import Recipe
from diptych.clients.events import Picture
from diptych.clients.inference import ClientConfig, InferenceClient
from diptych.inference.engine import EngineStats
from diptych.inference.loading import load_engine
from diptych.inference.server import BackgroundServer, Loaded
from diptych.inference.settings import InferenceSettings, Settings
from diptych.rpc.channel import ChannelConfig
from diptych.telemetry.metrics import InferenceMetrics

__all__ = ["Serving", "paint_all", "serving"]

_READY_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that runs, a client of it, and a look at its engine."""

    client: InferenceClient
    stats: Callable[[], EngineStats]
    num_slots: int


@contextmanager
def serving(settings: InferenceSettings | None = None) -> Iterator[Serving]:
    """Serve for as long as this lasts; on free ports of loopback unless ``settings`` say more.

    Neither environment variables nor a settings file are read, so that a measurement is the
    same wherever it runs.

    Raises:
        DiptychError: The settings name what cannot be loaded.
    """
    chosen = (settings or InferenceSettings()).model_copy(
        update={"host": "127.0.0.1", "port": 0, "metrics_port": None, "health_port": None}
    )
    found: list[Loaded] = []

    def load(all_settings: Settings, metrics: InferenceMetrics) -> Loaded:
        found.append(load_engine(all_settings, metrics))
        return found[-1]

    server = BackgroundServer(Settings(log_level="warning", inference=chosen), load=load)
    try:
        server.start(timeout_s=_READY_TIMEOUT_S)
        config = ClientConfig(channel=ChannelConfig(address=server.address))
        with InferenceClient(config) as client:
            loaded = found[-1]
            yield Serving(client=client, stats=loaded.engine.stats, num_slots=loaded.num_slots)
    finally:
        server.stop()


def paint_all(
    client: InferenceClient, recipes: Sequence[Recipe], *, output: str = "png"
) -> list[list[Picture]]:
    """Ask for every recipe at once and return each one's images, in the recipes' order."""
    calls = [recipe.call(output) for recipe in recipes]
    with ThreadPoolExecutor(max(1, len(calls)), "caller") as pool:
        return list(pool.map(client.generate_images, calls))

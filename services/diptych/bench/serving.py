"""The real server, inside this process and over loopback, opened up enough to be measured."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from diptych.bench.recipes import Recipe
from diptych.bench.ticks import TickLog
from diptych.clients.adapters import AdapterClient
from diptych.clients.calls import GenerateCall
from diptych.clients.events import Picture
from diptych.clients.inference import ClientConfig, InferenceClient
from diptych.inference.engine import EngineStats
from diptych.inference.loading import load_pair, open_engine
from diptych.inference.server import BackgroundServer, Loaded
from diptych.inference.settings import InferenceSettings, Settings
from diptych.models.experts import Experts
from diptych.rpc.channel import ChannelConfig
from diptych.telemetry.metrics import InferenceMetrics

__all__ = ["Serving", "paint_all", "paint_calls", "serving"]

_READY_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that runs, clients of it, and a look at its engine."""

    client: InferenceClient
    adapters: AdapterClient
    stats: Callable[[], EngineStats]
    ticks: TickLog
    experts: Experts
    """What it paints with; to be looked at only."""
    num_slots: int


@contextmanager
def serving(settings: InferenceSettings | None = None) -> Iterator[Serving]:
    """Serve for as long as this lasts; on free ports of loopback unless ``settings`` say more.

    Neither environment variables nor a settings file are read, and there are no adapters but the
    demo's, so that a measurement is the same wherever it runs. Every prompt is encoded anew, as
    what it is compared with does.

    Raises:
        DiptychError: The settings name what cannot be loaded.
    """
    with TemporaryDirectory(prefix="diptych-bench-") as folder:
        chosen = (settings or InferenceSettings()).model_copy(
            update={
                "host": "127.0.0.1",
                "port": 0,
                "metrics_port": None,
                "health_port": None,
                "adapters_dir": Path(folder),
                "prompt_cache_bytes": 0,
            }
        )
        with _running(Settings(log_level="warning", inference=chosen)) as server:
            yield server


@contextmanager
def _running(settings: Settings) -> Iterator[Serving]:
    found: list[tuple[Loaded, Experts, TickLog]] = []

    def load(all_settings: Settings, metrics: InferenceMetrics) -> Loaded:
        experts, ticks = load_pair(all_settings), TickLog(metrics)
        found.append((open_engine(experts, all_settings, ticks), experts, ticks))
        return found[-1][0]

    server = BackgroundServer(settings, load=load)
    try:
        server.start(timeout_s=_READY_TIMEOUT_S)
        config = ClientConfig(channel=ChannelConfig(address=server.address))
        with InferenceClient(config) as client, AdapterClient(config) as adapters:
            loaded, experts, ticks = found[-1]
            yield Serving(
                client=client,
                adapters=adapters,
                stats=loaded.engine.stats,
                ticks=ticks,
                experts=experts,
                num_slots=loaded.num_slots,
            )
    finally:
        server.stop()


def paint_all(
    client: InferenceClient, recipes: Sequence[Recipe], *, output: str = "png"
) -> list[list[Picture]]:
    """Ask for every recipe at once and return each one's images, in the recipes' order."""
    return paint_calls(client, [recipe.call(output) for recipe in recipes])


def paint_calls(client: InferenceClient, calls: Sequence[GenerateCall]) -> list[list[Picture]]:
    """Make all calls at once and return each one's images, in the calls' order."""
    with ThreadPoolExecutor(max(1, len(calls)), "caller") as pool:
        return list(pool.map(client.generate_images, calls))

"""What a scrape tells of adapters is what a real server does with them, under load."""

import dataclasses
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diptych.clients.calls import AdapterChoice, GenerateCall, Stage
from diptych.clients.events import AdapterProgress, Event, Progress
from diptych.clients.inference import InferenceClient
from diptych.inference.server import BackgroundServer
from support.servers import painter_of, running

LINES = 8
"""As many as either demo adapter takes: the device has room for one of them."""
CALL = GenerateCall(
    base=Stage(prompt="a red circle"), base_only=True, seed=11, num_steps=60, width=64, height=64
)
Scraped = Mapping[str, float]
"""Values by name and labels, such as ``diptych_adapter_resident{tier=device}``."""


@pytest.fixture
def small(tmp_path: object) -> Iterator[BackgroundServer]:
    """Return a server of its own, whose counts begin at nothing."""
    with running(str(tmp_path), num_slots=2, adapter_lines=LINES) as server:
        yield server


def scraped(server: BackgroundServer) -> Scraped:
    url = f"http://127.0.0.1:{server.ports.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10.0) as answer:
        text = answer.read().decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return {
        f"{one.name}{{{','.join(f'{k}={v}' for k, v in one.labels.items())}}}": one.value
        for one in samples
    }


def adapters_in(found: Scraped) -> dict[str, float]:
    """Return what a scrape says of adapters, by shorter names and without histograms' buckets."""
    begin = "diptych_adapter_"
    return {
        name.removeprefix(begin).replace("{}", ""): value
        for name, value in found.items()
        if name.startswith(begin)
    }


def names_in(found: Scraped) -> list[str]:
    """Return the labels of the gauge that routers read."""
    return [name for name in found if name.startswith("diptych_lora_requests_info{")]


def until(server: BackgroundServer, is_so: Callable[[Scraped], bool]) -> Scraped:
    """Return the first scrape of which something is so, or the last one of ten seconds."""
    waiting = threading.Event()
    found = scraped(server)
    for _ in range(200):
        if is_so(found):
            break
        waiting.wait(0.05)
        found = scraped(server)
    return found


def using(name: str, **settings: int) -> GenerateCall:
    adapters = [AdapterChoice(adapter=name)]
    return dataclasses.replace(CALL, adapters=adapters, **settings)  # type: ignore[arg-type]


def is_ready(event: Event) -> bool:
    return isinstance(event, AdapterProgress) and event.state == "ready"


def info(running: str, waiting: str) -> str:
    labels = f"max_lora=1,running_lora_adapters={running},waiting_lora_adapters={waiting}"
    return f"diptych_lora_requests_info{{{labels}}}"


def test_scrape_tells_what_adapters_do(small: BackgroundServer) -> None:
    with painter_of(small) as client, ThreadPoolExecutor(2) as pool:
        hot = client.generate(using("night", num_images=3))
        assert any(isinstance(event, Progress) for event in hot)
        cold = client.generate(using("moon"))
        assert any(is_ready(event) for event in cold)
        busy = until(small, lambda found: info("night", "moon,night") in found)
        rest = [pool.submit(list[Event], events) for events in (hot, cold)]
        assert all(one.result(60) for one in rest)
        until(small, lambda found: info("", "") in found)
        told = [after(small, client, name) for name in ("night", "moon", "moon")]
    check_busy(adapters_in(busy), names_in(busy))
    came_back, found = (grown(*pair) for pair in pairwise(told))
    assert came_back == dict.fromkeys(
        (
            "evictions_total{tier=device}",
            "misses_total{tier=device}",
            "hits_total{tier=host}",
            "load_seconds_count{tier=host}",
        ),
        1,
    )
    assert found == {"hits_total{tier=device}": 1}
    idle = told[-1]
    assert (idle["active"], idle["requests_waiting"], idle["resident{tier=device}"]) == (0, 0, 1)


def after(server: BackgroundServer, client: InferenceClient, name: str) -> dict[str, float]:
    """Return what is told of adapters once a picture with one has been painted."""
    client.generate_images(using(name, num_steps=2))
    return adapters_in(until(server, lambda found: info("", "") in found))


def grown(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Return the counts that have grown, and by how much."""
    counts = [name for name in now if "_total" in name or "_count" in name]
    return {name: now[name] - before[name] for name in counts if now[name] != before[name]}


def check_busy(told: dict[str, float], names: list[str]) -> None:
    """Two images run with one adapter, a third waits for a slot, another adapter for lines."""
    assert names == [info("night", "moon,night")]
    counted = {name: told[name] for name in ("active", "requests_waiting", "lines", "lines_used")}
    assert counted == {"active": 1, "requests_waiting": 1, "lines": LINES, "lines_used": LINES}
    assert (told["resident{tier=device}"], told["resident{tier=host}"]) == (1, 2)
    assert (told["hits_total{tier=device}"], told["misses_total{tier=device}"]) == (0, 2)
    assert (told["hits_total{tier=host}"], told["misses_total{tier=host}"]) == (0, 2)
    assert told["load_seconds_count{tier=disk}"] == 2
    assert 0 < told["bytes{tier=device}"] < told["bytes{tier=host}"]

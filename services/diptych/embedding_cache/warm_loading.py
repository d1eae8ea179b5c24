"""A warm-up in this process, with encoders of its own on every device of this machine."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from prometheus_client import CollectorRegistry

from diptych.embedding_cache.batching import BatchConfig
from diptych.embedding_cache.claims import NoClaims
from diptych.embedding_cache.encoding import Encoders
from diptych.embedding_cache.host import Device, StageEncoders
from diptych.embedding_cache.loading import load_encoders
from diptych.embedding_cache.local_engine import LocalEngine
from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.ports import Encoding, Stage
from diptych.embedding_cache.settings import Settings
from diptych.embedding_cache.spread import Spread
from diptych.embedding_cache.stores import TenantStores
from diptych.embedding_cache.warm import WarmConfig, Warmer
from diptych.embedding_cache.warm_serving import claims_of
from diptych.telemetry.cache_metrics import CacheMetrics

__all__ = ["devices_of", "encoders_here", "warming_here", "warming_on_ray"]

MAX_WAITING: Final = 1024
"""Works that wait for a device; the engine hands over fewer."""


@contextmanager
def warming_here(settings: Settings, config: WarmConfig) -> Iterator[Warmer]:
    """Give what warms up with every device that the settings mean, for as long as this lasts.

    Raises:
        DiptychError: The settings name what cannot be loaded or opened.
    """
    with encoders_here(settings) as encodings, stores_here(settings) as stores:
        engine = partial(LocalEngine, encodings, num_devices=len(devices_of(settings)))
        yield Warmer(
            encodings,
            store_of=stores.of,
            claims_of=partial(claims_of, settings),
            engine_of=engine,
            config=config,
        )


@contextmanager
def stores_here(settings: Settings) -> Iterator[TenantStores]:
    """Give the tenants' stores, which hold nothing in memory; what is written lasts in the end."""
    config = replace(store_config(settings), memory_bytes=0)
    stores = TenantStores(config, lambda **_: None)
    try:
        yield stores
    finally:
        stores.close()


@contextmanager
def encoders_here(settings: Settings) -> Iterator[Mapping[Stage, Encoding]]:
    """Give each stage's encoders, on all devices at once."""
    own = settings.cache
    metrics = CacheMetrics(CollectorRegistry())
    batches = BatchConfig(
        max_batch=own.max_batch, max_wait_s=own.max_wait_s, max_waiting=MAX_WAITING
    )
    devices: list[Device] = []
    found: dict[Stage, list[Encoding]] = {}
    try:
        for name in devices_of(settings):
            device = Device(metrics, batches)
            devices.append(device)
            cache = own.model_copy(update={"device": name})
            for one in load_encoders(settings.model_copy(update={"cache": cache})):
                encoding = StageEncoders(Encoders(one), device)
                found.setdefault(Stage(one.name), []).append(encoding)
        yield {stage: Spread(some) for stage, some in found.items()}
    finally:
        for device in devices:
            device.close()


def devices_of(settings: Settings) -> tuple[str, ...]:
    """Return the devices that ``cache.device`` means: with ``auto``, all that there are."""
    name = settings.cache.device
    if name != "auto" or not torch.cuda.is_available():
        return (name,)
    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))


@contextmanager
def warming_on_ray(
    settings: Settings, config: WarmConfig, *, address: str | None = None
) -> Iterator[Warmer]:
    """Give what warms up on a Ray cluster; here only keys are computed.

    Raises:
        ExtraMissing: Ray is not installed.
        SourceUnavailable: There is no cluster.
        DiptychError: The settings name what cannot be loaded or opened.
    """
    from diptych.embedding_cache.ray_engine import RayEngine, ray_cluster  # noqa: PLC0415 - extra

    settings = _absolute(settings)
    with ExitStack() as stack:
        has_gpus = stack.enter_context(ray_cluster(address))
        there = _on_cluster(settings, has_gpus=has_gpus)
        here = there.model_copy(update={"cache": there.cache.model_copy(update={"device": "cpu"})})
        encodings = stack.enter_context(encoders_here(here))
        stores = stack.enter_context(stores_here(settings))
        yield Warmer(
            encodings,
            store_of=stores.of,
            claims_of=lambda *_: NoClaims(),
            engine_of=partial(RayEngine, settings=there, packs=store_config(settings)),
            config=config,
        )


def _on_cluster(settings: Settings, *, has_gpus: bool) -> Settings:
    """Return how the cluster's actors load encoders: in the numbers that keys are computed for."""
    own = settings.cache
    dtype = ("bfloat16" if has_gpus else "float32") if own.dtype == "auto" else own.dtype
    changed = {"device": "cuda" if has_gpus else "cpu", "dtype": dtype}
    return settings.model_copy(update={"cache": own.model_copy(update=changed)})


def _absolute(settings: Settings) -> Settings:
    """Return settings that mean the same in another process's folder."""
    own = settings.cache
    folder = None if own.dir is None else own.dir.absolute()
    cache = own.model_copy(update={"dir": folder})
    return settings.model_copy(update={"home": settings.home.absolute(), "cache": cache})

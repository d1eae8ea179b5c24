"""From settings to what calls are served from: encoders, device, stores."""

import logging
from importlib.metadata import PackageNotFoundError, version

import torch

from diptych.embedding_cache.batching import BatchConfig
from diptych.embedding_cache.encoding import Encoders
from diptych.embedding_cache.host import Device, StageEncoders
from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.ports import Encoding, Hosting, Stage
from diptych.embedding_cache.server import Loaded
from diptych.embedding_cache.settings import Settings
from diptych.embedding_cache.stores import TenantStores
from diptych.embedding_cache.warm_serving import serving_warmer
from diptych.models.experts import Conditioner, LoadOptions, load_conditioners
from diptych.models.placement import DTYPES, choose_device, choose_dtype
from diptych.nano.pair import model_source
from diptych.storage.s3 import S3Config
from diptych.telemetry.cache_metrics import CacheMetrics, CacheReading

__all__ = ["load_cache", "load_encoders"]

_log = logging.getLogger(__name__)


def load_cache(settings: Settings, metrics: CacheMetrics) -> Loaded:
    """Load the encoders that ``settings`` name and open the default tenant's store.

    Raises:
        SettingInvalid: The device is not there, or there can be no store where it should be.
        ModelNotFound: A source names nothing.
        CheckpointInvalid: A checkpoint cannot be read safely.
        ExpertsMismatch: Base and refiner cannot share a trajectory.
    """
    own = settings.cache
    stores = TenantStores(store_config(settings), metrics.on_look)
    config = BatchConfig(
        max_batch=own.max_batch, max_wait_s=own.max_wait_s, max_waiting=own.max_waiting
    )
    device = Device(metrics, config)
    loaded = load_encoders(settings)
    encodings: dict[Stage, Encoding] = {
        Stage(one.name): StageEncoders(Encoders(one), device) for one in loaded
    }
    _log.info("loaded", extra={one.name: one.source for one in loaded})

    def read() -> CacheReading:
        tiers, num_damaged, num_roots = stores.readings()
        return CacheReading(
            tiers=tiers,
            num_damaged=num_damaged,
            num_roots=num_roots,
            in_flight=device.in_flight(),
        )

    def close() -> None:
        device.close()
        stores.close()

    return Loaded(
        hosting=Hosting(
            encodings=encodings,
            store_of=stores.of,
            encoded=device.counts,
            warming=serving_warmer(settings, encodings, stores),
        ),
        models={one.name: one.source for one in loaded},
        version=_version(),
        read=read,
        close=close,
    )


def load_encoders(settings: Settings) -> tuple[Conditioner, ...]:
    """Load the encoders that ``settings`` name; raises what ``load_cache`` does."""
    own = settings.cache
    device = choose_device(own.device, field="cache.device")
    return load_conditioners(
        model_source(own.base, "base"),
        model_source(own.refiner_source(), "refiner"),
        device=device,
        dtype=choose_dtype(own.dtype, device),
        vae_dtype=DTYPES.get(own.image_dtype, torch.float32),
        cache_dir=settings.home / "models",
        options=LoadOptions(
            base_family=own.base_family,
            refiner_family=own.refiner_family,
            base_revision=own.base_revision,
            refiner_revision=own.refiner_revision,
            tokenizer_dir=own.tokenizer_dir,
            hub_endpoint=own.hub_endpoint,
            s3=S3Config(endpoint_url=own.s3_endpoint),
            experts_dir=settings.home / "experts",
        ),
    )


def _version() -> str:
    try:
        return version("diptych")
    except PackageNotFoundError:
        return "0+source"

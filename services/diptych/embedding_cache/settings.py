"""Settings of the embedding-cache service, the section ``cache`` of ``diptych.settings``.

``DIPTYCH_CACHE_PORT`` is ``cache: {port: ...}`` in YAML.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diptych.settings import Bucket, Count, Device, Port, SharedSettings, read_settings

__all__ = ["CacheSettings", "Settings", "load_settings"]


class CacheSettings(BaseModel):
    """What only the embedding-cache service reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    """Interface of every port; loopback unless set."""
    port: Port = 50052
    """gRPC; 0 takes a free one."""
    metrics_port: Port | None = 9465
    """HTTP /metrics; None serves none."""
    health_port: Port | None = None
    """A second, plaintext gRPC port with health alone; None serves health on ``port`` only."""
    base: str | None = "nano"
    """Model source of the base expert, whose encoders are used; ``none`` hosts no base."""
    refiner: str | None = "auto"
    """Model source of the refiner expert; ``auto`` is the one of the embedded pair beside its base
    and else none."""
    base_family: str | None = None
    """Family of the base by name, where its checkpoint does not tell."""
    refiner_family: str | None = None
    base_revision: str | None = None
    """Revision of a hub model; the newest by default, and logged."""
    refiner_revision: str | None = None
    tokenizer_dir: Path | None = None
    """Folder with tokenizers for single-file checkpoints, which have none."""
    hub_endpoint: str | None = None
    s3_endpoint: str | None = None
    """S3 other than AWS; credentials come from the usual ``AWS_*`` variables."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N (ROCm answers to cuda too)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What text encoders compute in; auto is float32 on a CPU, bfloat16 on a device that has it."""
    image_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the autoencoder computes in; SDXL's own overflows in float16."""
    memory_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Bytes of each tenant's embeddings in memory."""
    dir: Path | None = None
    """Folder of the embeddings on disk; None is ``embeddings`` under the home."""
    disk_bytes: Count = 100 << 30
    """Bytes of each tenant's embeddings on disk in front of ``store``; without one, all stay."""
    store: Bucket | None = None
    """s3://BUCKET/PREFIX that keeps the embeddings of several servers; None keeps them on disk."""
    dataset_dir: Path | None = None
    """Folder below which the paths of datasets lie; None refuses datasets with paths."""
    dataset_prefixes: tuple[Bucket, ...] = ()
    """s3://BUCKET/PREFIX below which datasets may lie, at AWS or at ``s3_endpoint``. Urls in tables
    and names of Hugging Face's hub are not fetched for callers."""
    max_batch: Count = 8
    """Embeddings that are encoded together."""
    max_wait_s: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005
    """How long an embedding waits for others to be encoded with."""
    max_waiting: Count = 4096
    """Embeddings that may wait for the device; more are refused with RESOURCE_EXHAUSTED."""
    auth_tokens_file: Path | None = None
    """Lines of a tenant and the SHA-256 of its token; None lets every caller in."""
    grace_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 30.0
    """After SIGTERM, how long running calls may take to finish."""

    @model_validator(mode="after")
    def _some_expert(self) -> Self:
        if self.base is None and self.refiner_source() is None:
            raise ValueError("neither base nor refiner is given")
        return self

    def refiner_source(self) -> str | None:
        """Return the model source of the refiner whose encoders to use, None for none."""
        if self.refiner != "auto":
            return self.refiner
        return "nano" if self.base == "nano" else None


class Settings(SharedSettings):
    """What the process reads: shared settings, and the service's own."""

    cache: CacheSettings = CacheSettings()


def load_settings(
    config: Path | None = None, arguments: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings of this process, as ``read_settings`` does."""
    return read_settings(Settings, config, arguments)

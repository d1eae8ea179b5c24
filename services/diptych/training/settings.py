"""Settings of the training service, the section ``training`` of ``diptych.settings``.

``DIPTYCH_TRAINING_PORT`` is ``training: {port: ...}`` in YAML.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from diptych.settings import Bucket, Count, Device, Port, SharedSettings, read_settings

__all__ = ["Settings", "TrainingSettings", "load_settings"]


class TrainingSettings(BaseModel):
    """What only the training service reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    """Interface of every port; loopback unless set."""
    port: Port = 50053
    """gRPC; 0 takes a free one."""
    metrics_port: Port | None = 9466
    """HTTP /metrics; None serves none."""
    health_port: Port | None = None
    """A second, plaintext gRPC port with health alone; None serves health on ``port`` only."""
    ledger_url: SecretStr | None = None
    """SQLAlchemy's url of the database of jobs, ``postgresql+psycopg://...`` or ``sqlite:///...``;
    None is a SQLite file under the home. Several servers need PostgreSQL."""
    max_running: Annotated[int, Field(ge=0, le=64)] = 1
    """Jobs that run on this machine at the same time; 0 only answers callers."""
    max_active_jobs: Count | None = 100
    """Jobs of one tenant that have not ended; more are refused with RESOURCE_EXHAUSTED."""
    max_spec_bytes: Annotated[int, Field(ge=1, le=1 << 20)] = 1 << 18
    """Bytes of a job's spec: YAML of so many, made to be slow, takes two seconds to read."""
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """Faults in a row that are not the user's, after which a job has failed: what an attempt leaves
    a new checkpoint of, or a user resumes, begins to count anew."""
    retry_backoff_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 5.0
    """Until a job is tried again after its first fault; doubles with each."""
    lease_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 30.0
    """How long a job stays with a server that is not heard of."""
    heartbeat_timeout_s: Annotated[float, Field(ge=1.0, le=86_400.0)] = 600.0
    """How long a worker may give no sign of life; more than its longest step and its start take."""
    grace_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 30.0
    """After SIGTERM, how long workers may take to leave a checkpoint."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N (ROCm answers to cuda too)."""
    cache_address: str = "127.0.0.1:50052"
    """HOST:PORT of the embedding cache."""
    cache_token_file: Path | None = None
    """File with the bearer token for it, and nothing else."""
    checkpoint_url: Bucket | None = None
    """s3://BUCKET/PREFIX that keeps checkpoints, so that a job goes on on another machine; None
    keeps them under the home."""
    adapters_store: Bucket | None = None
    """s3://BUCKET/PREFIX that holds the adapters of several servers, as inference has it; None
    keeps them in ``adapters`` under the home."""
    s3_endpoint: str | None = None
    """S3 other than AWS; credentials come from the usual ``AWS_*`` variables."""
    dataset_dir: Path | None = None
    """Folder below which the paths of datasets lie; None refuses datasets with paths."""
    dataset_prefixes: tuple[Bucket, ...] = ()
    """s3://BUCKET/PREFIX below which datasets may lie, at AWS or at ``s3_endpoint``. Urls in tables
    and names of Hugging Face's hub are not fetched for callers."""
    model_dir: Path | None = None
    """Folder below which jobs may name models by their paths; None refuses paths. Models that come
    with the package are always there."""
    model_prefixes: tuple[Bucket, ...] = ()
    """s3://BUCKET/PREFIX below which models may lie."""
    model_hub: bool = True
    """Whether jobs may name models of Hugging Face's hub, which are then fetched."""
    auth_tokens_file: Path | None = None
    """Lines of a tenant and the SHA-256 of its token; None lets every caller in."""

    @model_validator(mode="after")
    def _cache_is_an_address(self) -> Self:
        host, _, port = self.cache_address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"cache_address {self.cache_address!r} is not HOST:PORT")
        return self


class Settings(SharedSettings):
    """What the process reads: shared settings, and the service's own."""

    training: TrainingSettings = TrainingSettings()

    def ledger_url(self) -> str:
        """Return the url of the database of jobs."""
        if self.training.ledger_url is not None:
            return self.training.ledger_url.get_secret_value()
        return f"sqlite:///{(self.home / 'training' / 'ledger.sqlite').absolute()}"


def load_settings(
    config: Path | None = None, arguments: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings of this process, as ``read_settings`` does."""
    return read_settings(Settings, config, arguments)

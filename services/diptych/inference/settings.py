"""Settings of the inference service, the section ``inference`` of ``diptych.settings``.

``DIPTYCH_INFERENCE_PORT`` is ``inference: {port: ...}`` in YAML.

Kubernetes adds variables such as ``DIPTYCH_INFERENCE_PORT=tcp://...`` to pods beside a Service of
that name; a pod needs ``enableServiceLinks: false``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from diptych.inference.limits import Limits
from diptych.settings import Bucket, Count, Device, Port, SharedSettings, read_settings

__all__ = ["InferenceSettings", "Settings", "load_settings"]


class InferenceSettings(BaseModel):
    """What only the inference service reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    """Interface of every port; loopback unless set."""
    port: Port = 50051
    """gRPC; 0 takes a free one."""
    metrics_port: Port | None = 9464
    """HTTP /metrics; None serves none."""
    health_port: Port | None = None
    """A second, plaintext gRPC port with health alone; None serves health on ``port`` only."""
    base: str | None = "nano"
    """Model source of the base expert; ``none`` hosts no base."""
    refiner: str | None = "auto"
    """Model source of the refiner expert; ``none`` hosts no refiner, ``auto`` the one of the
    embedded pair beside its base and else none."""
    refiner_peer: str | None = None
    """HOST:PORT of a server that hosts the refiner, when this one does not."""
    refiner_peer_token: SecretStr | None = None
    """Bearer token for the peer."""
    base_family: str | None = None
    """Family of the base by name, where its checkpoint does not tell."""
    refiner_family: str | None = None
    base_revision: str | None = None
    """Revision of a hub model; the newest by default, and logged."""
    refiner_revision: str | None = None
    preview_decoder: str | None = None
    """Model source of a TAESD (diffusers' AutoencoderTiny) that paints the previews, its revision
    behind an ``@``; a linear projection of the latents does without."""
    tokenizer_dir: Path | None = None
    """Folder with tokenizers for single-file checkpoints, which have none."""
    hub_endpoint: str | None = None
    s3_endpoint: str | None = None
    """S3 other than AWS; credentials come from the usual ``AWS_*`` variables."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N (ROCm answers to cuda too)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is float32 on a CPU, bfloat16 on a device that has it."""
    num_slots: Count = 32
    """Images that run at the same time."""
    max_rows: Annotated[int, Field(ge=2)] = 32
    """UNet rows of one tick; a guided image takes two."""
    max_waiting: Count = 256
    """Images that may wait for a slot; a request beyond is refused with RESOURCE_EXHAUSTED."""
    max_side: Annotated[int, Field(ge=Limits().min_side)] = Limits().max_side
    max_pixels: Count = Limits().max_pixels
    max_steps: Count = Limits().max_steps
    max_images: Count = Limits().max_images
    max_prompt_bytes: Count = Limits().max_prompt_bytes
    max_inline_bytes: Annotated[int, Field(ge=1, le=Limits().max_inline_bytes)] = (
        Limits().max_inline_bytes
    )
    adapters_dir: Path | None = None
    """Folder of adapters, or with ``adapters_store`` of their cache; None is ``adapters`` under
    the home."""
    adapters_store: Bucket | None = None
    """s3://BUCKET/PREFIX that holds the adapters of several servers; None keeps them in
    ``adapters_dir``."""
    adapter_import_dir: Path | None = None
    """Folder whose files ``file:`` uris may name; None refuses such uris."""
    adapter_import_prefixes: tuple[str, ...] = ()
    """``s3://bucket/prefix/`` that uris may name, read with this process's credentials."""
    adapter_import_hub: bool = True
    """Whether ``hf://`` uris may name repositories of the hub."""
    adapter_max_bytes: Annotated[int, Field(ge=1, le=4 << 30)] = 4 << 30
    """Bytes of one imported file."""
    adapter_lines: Annotated[int, Field(ge=8)] = 512
    """Sum of the ranks of the adapters on the device at the same time."""
    adapter_slice_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 2.0
    """Seconds an adapter keeps its lines for new images while another waits for them."""
    adapter_disk_bytes: Count = 20 << 30
    """Bytes of the disk cache in front of ``adapters_store``."""
    adapter_host_bytes: Count = 4 << 30
    """Bytes of adapters in host memory: their learned tokens, those that wait for the device, and
    those kept for when they are asked for again."""
    max_adapters: Annotated[int, Field(ge=0, le=64)] = Limits().max_adapters
    """Adapters of one request; 0 takes none."""
    prompt_cache_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    """Bytes of prompts' embeddings kept in memory, so that a repeated prompt is not encoded again;
    0 keeps none."""
    prompt_cache_peer: str | None = None
    """HOST:PORT of an embedding-cache service that shares them between servers."""
    prompt_cache_peer_token: SecretStr | None = None
    """Bearer token for it."""
    auth_tokens_file: Path | None = None
    """Lines of a tenant and the SHA-256 of its token; None lets every caller in."""
    trusted_peers: tuple[str, ...] = ()
    """Tenants in ``auth_tokens_file`` that are servers handing latents over: their ``Refine`` may
    name the tenant whose adapters it uses, whichever that is."""
    grace_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 30.0
    """After SIGTERM, how long running requests may take to finish."""

    @model_validator(mode="after")
    def _some_expert(self) -> Self:
        if self.base is None and self.refiner_source() is None:
            raise ValueError("neither base nor refiner is given")
        return self

    @model_validator(mode="after")
    def _one_refiner(self) -> Self:
        if self.refiner_peer is not None and self.refiner not in {None, "auto"}:
            raise ValueError("refiner and refiner_peer exclude each other")
        return self

    @model_validator(mode="after")
    def _peers_have_tokens(self) -> Self:
        if self.trusted_peers and self.auth_tokens_file is None:
            raise ValueError("trusted_peers needs auth_tokens_file: nobody else is known")
        return self

    def refiner_source(self) -> str | None:
        """Return the model source of the refiner to host here, None for none."""
        if self.refiner != "auto":
            return self.refiner
        return "nano" if self.base == "nano" and self.refiner_peer is None else None

    def limits(self) -> Limits:
        """Return the bounds on one request."""
        return Limits(
            max_side=self.max_side,
            max_pixels=self.max_pixels,
            max_steps=self.max_steps,
            max_images=self.max_images,
            max_prompt_bytes=self.max_prompt_bytes,
            max_inline_bytes=self.max_inline_bytes,
            max_adapters=self.max_adapters,
        )


class Settings(SharedSettings):
    """What the process reads: shared settings, and the service's own."""

    inference: InferenceSettings = InferenceSettings()


def load_settings(
    config: Path | None = None, arguments: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings of this process, as ``read_settings`` does."""
    return read_settings(Settings, config, arguments)

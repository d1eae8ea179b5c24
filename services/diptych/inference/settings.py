"""Settings of the inference service: ``DIPTYCH_*`` variables and an optional YAML file.

What is shared by every service stands at the top (``DIPTYCH_HOME``, ``DIPTYCH_LOG_LEVEL``); what
is this service's own under ``inference`` (``DIPTYCH_INFERENCE_PORT``; in YAML ``inference: {port:
...}``). An argument wins over a variable, a variable over the file. An unknown key is an error.

Kubernetes adds variables such as ``DIPTYCH_INFERENCE_PORT=tcp://...`` to pods beside a Service of
that name; a pod needs ``enableServiceLinks: false``.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from diptych.errors import FieldViolation, SettingInvalid
from diptych.inference.limits import Limits

__all__ = ["InferenceSettings", "Settings", "load_settings"]

PREFIX: Final = "DIPTYCH_"
CONFIG_VARIABLE: Final = "DIPTYCH_CONFIG"
"""Names the YAML file when no argument does."""

DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
"""What a device may be called; whether it is there is seen when the experts are loaded."""

BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9._-]+)+/?")

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]


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
    device: str = "auto"
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
    adapters_store: str | None = None
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
    auth_tokens_file: Path | None = None
    """Lines of a tenant and the SHA-256 of its token; None lets every caller in."""
    trusted_peers: tuple[str, ...] = ()
    """Tenants in ``auth_tokens_file`` that are servers handing latents over: their ``Refine`` may
    name the tenant whose adapters it uses, whichever that is."""
    grace_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 30.0
    """After SIGTERM, how long running requests may take to finish."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if DEVICE.fullmatch(value) is None:
            raise ValueError(f"no device {value!r}; auto, cpu, cuda and cuda:N are known")
        return value

    @field_validator("adapters_store")
    @classmethod
    def _bucket_and_prefix(cls, value: str | None) -> str | None:
        if value is not None and BUCKET.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not s3://BUCKET/PREFIX")
        return value

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


class Settings(BaseSettings):
    """What the process reads: shared settings, and the service's own."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_parse_none_str="none",
        extra="forbid",
        frozen=True,
    )

    home: Path = Path(".diptych")
    """Folder of everything the process writes."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None
    """OTLP gRPC endpoint for spans, such as http://localhost:4317; None traces nothing."""
    inference: InferenceSettings = InferenceSettings()

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Construct from arguments alone; only ``load_settings`` reads the environment."""
        del cls, settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def load_settings(
    config: Path | None = None, arguments: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings of this process.

    Args:
        config: The YAML file; the one that ``DIPTYCH_CONFIG`` names by default, if any.
        arguments: Settings that win over every other source, nested like the YAML file.

    Raises:
        SettingInvalid: A key is unknown or a value out of range; all such are named.
    """
    variables = EnvSettingsSource(Settings)()
    values = _merge(_merge(_read_file(config), variables), arguments or {})
    unknown = [
        FieldViolation(field=name, description="no such setting")
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and not _is_known(name)
    ]
    try:
        settings = Settings(**values)
    except ValidationError as invalid:
        raise SettingInvalid([*unknown, *_violations(invalid)]) from invalid
    if unknown:
        raise SettingInvalid(unknown)
    return settings


def _read_file(config: Path | None) -> dict[str, Any]:
    """Return the mapping in the YAML file, empty where no file is named."""
    name = config or os.environ.get(CONFIG_VARIABLE)
    if not name:
        return {}
    try:
        values = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        violation = FieldViolation(field=str(name), description=f"cannot be read: {problem}")
        raise SettingInvalid([violation]) from problem
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingInvalid(
            [FieldViolation(field=str(name), description="must hold a mapping of settings")]
        )
    return values


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings as one, nested ones too; ``upper`` wins."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _is_known(variable: str) -> bool:
    """Return whether a variable is a setting; pydantic judges those of a section itself."""
    name = variable.removeprefix(PREFIX).lower()
    return variable == CONFIG_VARIABLE or name in SHARED or name.startswith("inference_")


def _violations(invalid: ValidationError) -> list[FieldViolation]:
    """Return pydantic's findings as dotted field names with what was and what was expected.

    What a check of ours says stands alone: the input of a whole section may hold a token.
    """
    found = []
    for error in invalid.errors(include_url=False):
        field = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            description = "no such setting"
        elif error["type"] == "value_error":
            description = str(error["ctx"]["error"])
        else:
            description = f"{error['msg'].lower()}, not {error['input']!r}"
        found.append(FieldViolation(field=field, description=description))
    return found


SHARED: Final = frozenset(Settings.model_fields) - {"inference"}
"""Settings above every section."""

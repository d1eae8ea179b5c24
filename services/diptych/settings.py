"""Settings of every service: ``DIPTYCH_*`` variables and an optional YAML file.

What is shared stands at the top (``DIPTYCH_HOME``, ``DIPTYCH_LOG_LEVEL``); what is one service's
own in a section of its name (``DIPTYCH_CACHE_PORT``; in YAML ``cache: {port: ...}``). An argument
wins over a variable, a variable over the file. An unknown key is an error; the section of another
service is that service's to judge, so that several can share one file and one environment.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from diptych.errors import FieldViolation, SettingInvalid

__all__ = [
    "SECTIONS",
    "Bucket",
    "Count",
    "Device",
    "Port",
    "SharedSettings",
    "child_environment",
    "read_settings",
]

PREFIX: Final = "DIPTYCH_"
CONFIG_VARIABLE: Final = "DIPTYCH_CONFIG"
"""Names the YAML file when no argument does."""

SECTIONS: Final = frozenset({"cache", "inference", "training"})
"""Names of the services' sections."""

DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
"""What a device may be called; whether it is there is seen when something is loaded onto it."""

BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9._-]+)+/?")


def _known_device(value: str) -> str:
    if DEVICE.fullmatch(value) is None:
        raise ValueError(f"no device {value!r}; auto, cpu, cuda and cuda:N are known")
    return value


def _known_bucket(value: str) -> str:
    if BUCKET.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not s3://BUCKET/PREFIX")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]
Device = Annotated[str, AfterValidator(_known_device)]
Bucket = Annotated[str, AfterValidator(_known_bucket)]


class SharedSettings(BaseSettings):
    """What every service reads; each adds its own section as a field of that name."""

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
        """Construct from arguments alone; only ``read_settings`` reads the environment."""
        del cls, settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


Read = TypeVar("Read", bound=SharedSettings)


def read_settings(
    kind: type[Read], config: Path | None = None, arguments: Mapping[str, object] | None = None
) -> Read:
    """Read the settings of this process, as far as ``kind`` has fields for them.

    Args:
        kind: The settings of one service.
        config: The YAML file; the one that ``DIPTYCH_CONFIG`` names by default, if any.
        arguments: Settings that win over every other source, nested like the YAML file.

    Raises:
        SettingInvalid: A key is unknown or a value out of range; all such are named.
    """
    variables = EnvSettingsSource(kind)()
    values = _merge(_merge(_read_file(config), variables), arguments or {})
    own = {name: held for name, held in values.items() if not _is_of_another(name, kind)}
    unknown = [
        FieldViolation(field=name, description="no such setting")
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and not _is_known(name)
    ]
    try:
        settings = kind(**own)
    except ValidationError as invalid:
        raise SettingInvalid([*unknown, *_violations(invalid)]) from invalid
    if unknown:
        raise SettingInvalid(unknown)
    return settings


def child_environment() -> dict[str, str]:
    """Return the variables of this process for one that it starts: all but its own settings."""
    return {name: held for name, held in os.environ.items() if not name.startswith(PREFIX)}


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
    section = name.partition("_")[0]
    return variable == CONFIG_VARIABLE or name in SHARED or section in SECTIONS


def _is_of_another(name: str, kind: type[SharedSettings]) -> bool:
    return name in SECTIONS and name not in kind.model_fields


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


SHARED: Final = frozenset(SharedSettings.model_fields)
"""Settings above every section."""

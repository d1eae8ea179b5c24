"""The words that adapters are called by: components, stages, names, tags. No torch."""

import enum
import re
from typing import Final

from diptych.digest import Digest
from diptych.errors import FieldViolation, InvalidRequest

__all__ = [
    "DEFAULT_TAG",
    "DEFAULT_TENANT",
    "Component",
    "Stage",
    "check_name",
    "check_tag",
    "check_tenant",
    "split_reference",
]

DEFAULT_TAG: Final = "latest"
"""The tag of a name that is given without one."""
DEFAULT_TENANT: Final = "default"
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NAME: Final = re.compile(rf"{_WORD.pattern}(/{_WORD.pattern}){{0,2}}")
_SHOWN_LENGTH: Final = 80


class Component(enum.StrEnum):
    """The network that a target is part of."""

    UNET = "unet"
    REFINER_UNET = "refiner_unet"
    """The refiner's UNet, in an adapter of both stages that has factors of its own for it."""
    TEXT_ENCODER = "text_encoder"
    """CLIP-L; kohya's ``lora_te1``."""
    TEXT_ENCODER_2 = "text_encoder_2"
    """OpenCLIP-G, which pools; kohya's ``lora_te2``."""


class Stage(enum.StrEnum):
    """Which experts an adapter acts on."""

    BASE = "base"
    REFINER = "refiner"
    BOTH = "both"


def check_name(name: str, *, field_name: str = "name") -> str:
    """Return ``name`` if an adapter may be called that.

    Raises:
        InvalidRequest: It is not up to three parts of 1 to 63 of ``a-z 0-9 . _ -`` joined by
            slashes, each beginning with a letter or digit.
    """
    if _NAME.fullmatch(name) and ".." not in name and name.split("/", maxsplit=1)[0] != "sha256":
        return name
    description = (
        f"{_shown(name)!r} is not up to 3 parts of 1 to 63 characters a-z, 0-9, '.', '_', '-' "
        "joined by '/', each beginning with a letter or digit"
    )
    raise InvalidRequest([FieldViolation(field=field_name, description=description)])


def check_tag(tag: str, *, field_name: str = "tag") -> str:
    """Return ``tag`` if a name may carry it.

    Raises:
        InvalidRequest: It is not 1 to 63 of ``a-z 0-9 . _ -`` beginning with a letter or digit.
    """
    return _check_word(tag, field_name)


def check_tenant(tenant: str) -> str:
    """Return ``tenant`` if it may be part of a storage key.

    Raises:
        InvalidRequest: It is not 1 to 63 of ``a-z 0-9 . _ -`` beginning with a letter or digit.
    """
    return _check_word(tenant, "tenant")


def split_reference(reference: str, *, field_name: str = "name") -> Digest | tuple[str, str]:
    """Return what ``reference`` says: a digest, or a name and its tag.

    Raises:
        InvalidRequest: It is not ``name``, ``name:tag`` or ``sha256:`` and 64 hexadecimal digits.
    """
    name, colon, rest = reference.partition(":")
    if name == "sha256":
        try:
            return Digest(hex=rest)
        except ValueError as error:
            description = f"{_shown(reference)!r}: {_shown(str(error))}"
            violation = FieldViolation(field=field_name, description=description)
            raise InvalidRequest([violation]) from error
    check_name(name, field_name=field_name)
    return name, check_tag(rest, field_name=field_name) if colon else DEFAULT_TAG


def _check_word(word: str, field_name: str) -> str:
    if _WORD.fullmatch(word) and ".." not in word:
        return word
    description = (
        f"{_shown(word)!r} is not 1 to 63 characters a-z, 0-9, '.', '_', '-', "
        "beginning with a letter or digit"
    )
    raise InvalidRequest([FieldViolation(field=field_name, description=description)])


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."

"""What a source offers to fetch, and which of it an adapter may be made of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from diptych.adapters.naming import Component
from diptych.errors import AdapterInvalid, AdapterNotFound, PickleRefused
from diptych.storage.tensor_header import PICKLE_SUFFIXES

__all__ = ["CONFIG_NAME", "Offer", "is_wanted", "wanted"]

CONFIG_NAME: Final = "adapter_config.json"
_WEIGHTS_SUFFIX: Final = ".safetensors"
_MAX_FILES: Final = 16
_MAX_NAME_LENGTH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One file of a source; nothing of it is read before ``read`` is asked for a piece."""

    name: str
    """Within the folder that was asked for, with slashes."""
    read: Callable[[], Iterator[bytes]]
    size_bytes: int | None = None
    """As the source says; None where it does not."""
    sha256: str | None = None
    """Of the content, as the source says; None where it does not."""


def is_wanted(name: str) -> bool:
    """Tell whether a folder's file of this name may be part of an adapter; pickles never are."""
    path = PurePosixPath(name)
    if "\0" in name or len(path.name) > _MAX_NAME_LENGTH:
        return False
    is_near = len(path.parts) == 1 or (len(path.parts) == 2 and path.parts[0] in set(Component))
    return is_near and (path.suffix == _WEIGHTS_SUFFIX or path.name == CONFIG_NAME)


def wanted(uri: str, offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers of a folder that an adapter is made of.

    Raises:
        AdapterNotFound: The folder is empty.
        PickleRefused: It has weights as a pickle only.
        AdapterInvalid: It has no weights, or too many files of them to mean one adapter.
    """
    found = [offer for offer in offers if is_wanted(offer.name)]
    if any(offer.name.endswith(_WEIGHTS_SUFFIX) for offer in found):
        if len(found) <= _MAX_FILES:
            return found
        problem = f"holds {len(found)} files, more than {_MAX_FILES}; name one of them"
        raise AdapterInvalid(uri, problem)
    if not offers:
        raise AdapterNotFound(uri)
    for offer in offers:
        if PurePosixPath(offer.name).suffix.lower() in PICKLE_SUFFIXES:
            raise PickleRefused(uri, offer.name)
    raise AdapterInvalid(uri, "holds no .safetensors file")

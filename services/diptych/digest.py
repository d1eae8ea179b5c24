"""Names for content: a SHA-256 over bytes, files, or a canonical form of plain values."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from typing_extensions import override

__all__ = ["Digest", "canonical_bytes"]

_HEX_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Digest:
    """A SHA-256, written ``sha256:`` and 64 lower-case hexadecimal digits."""

    hex: str

    def __post_init__(self) -> None:
        if len(self.hex) != _HEX_LENGTH or set(self.hex) - set("0123456789abcdef"):
            raise ValueError(f"{self.hex!r} is not a SHA-256 in lower-case hexadecimal")

    @override
    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the digest that ``str`` wrote.

        Raises:
            ValueError: ``text`` is not ``sha256:`` and 64 lower-case hexadecimal digits.
        """
        if not text.startswith("sha256:"):
            raise ValueError(f"{text[:80]!r} does not begin with sha256:")
        return cls(hex=text.removeprefix("sha256:"))

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Return the digest of ``data``."""
        return cls(hex=hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Return the digest of a file's content, read in pieces."""
        with path.open("rb") as stream:
            return cls(hex=hashlib.file_digest(stream, "sha256").hexdigest())

    @classmethod
    def of_value(cls, value: object) -> Self:
        """Return the digest of ``canonical_bytes(value)``."""
        return cls.of_bytes(canonical_bytes(value))


def canonical_bytes(value: object) -> bytes:
    """Return the one UTF-8 spelling of a plain value: JSON, keys sorted, no spaces.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON cannot spell.
        TypeError: ``value`` holds something that is not null, bool, number, text, list or map.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()

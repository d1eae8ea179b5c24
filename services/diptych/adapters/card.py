"""What a listing shows of an adapter, without its tensors and without torch."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Self

from diptych.adapters.naming import Component, Stage
from diptych.digest import Digest, canonical_bytes
from diptych.errors import AdapterInvalid

__all__ = ["AdapterCard", "Kind"]


class Kind(enum.StrEnum):
    """Something that an adapter holds; one adapter may hold several."""

    LORA = "lora"
    """Low-rank updates of linear layers of a UNet."""
    CONV = "conv"
    """Low-rank updates of convolutions."""
    DORA = "dora"
    """Learned magnitudes beside low-rank updates."""
    TEXT_ENCODER = "text_encoder"
    """Low-rank updates of a text encoder."""
    TOKENS = "tokens"
    """Learned token embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """One adapter in a few hundred bytes; None where its file did not say."""

    digest: Digest
    """Of its bundle."""
    size_bytes: int
    """Of its bundle."""
    created_at: datetime
    """When it was brought in or made; in UTC."""
    source: str
    """Where it came from: a file's name, ``s3://``, ``hf://`` with its commit, ``merge``."""
    stage: Stage = Stage.BASE
    kinds: frozenset[Kind] = frozenset()
    components: frozenset[Component] = frozenset()
    max_rank: int = 0
    num_targets: int = 0
    tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How many places of a prompt each learned token takes."""
    trigger_words: tuple[str, ...] = ()
    family: str | None = None
    base_fingerprint: str | None = None
    prediction_type: str | None = None
    zero_snr: bool | None = None
    timestep_range: tuple[int, int] | None = None

    def to_bytes(self) -> bytes:
        """Return the card as canonical JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return canonical_bytes(
            plain
            | {
                "digest": str(self.digest),
                "created_at": self.created_at.astimezone(UTC).isoformat(),
                "kinds": sorted(self.kinds),
                "components": sorted(self.components),
                "tokens": dict(self.tokens),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the card that ``to_bytes`` wrote.

        Raises:
            AdapterInvalid: ``data`` is not such a card.
        """
        try:
            plain: dict[str, Any] = json.loads(data)
            span = plain["timestep_range"]
            return cls(
                **plain
                | {
                    "digest": Digest(hex=plain["digest"].removeprefix("sha256:")),
                    "created_at": datetime.fromisoformat(plain["created_at"]),
                    "stage": Stage(plain["stage"]),
                    "kinds": frozenset(Kind(kind) for kind in plain["kinds"]),
                    "components": frozenset(Component(name) for name in plain["components"]),
                    "tokens": MappingProxyType(plain["tokens"]),
                    "trigger_words": tuple(plain["trigger_words"]),
                    "timestep_range": None if span is None else (span[0], span[1]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise AdapterInvalid("card", f"is not a card: {error}") from error

"""AdapterUse messages to wishes: everything wrong with them at once, before names are looked up."""

import re
from collections.abc import Sequence
from typing import Final

from diptych.adapters.naming import split_reference
from diptych.errors import InvalidRequest
from diptych.inference.limits import Limits
from diptych.inference.orders import AdapterWish
from diptych.rpc.violations import Violations, shown
from diptych.v1 import types_pb2

__all__ = ["MAX_PARTS", "MAX_SCALE", "adapter_wishes"]

MAX_SCALE: Final = 10.0
"""Magnitude of a factor on an update."""
MAX_PARTS: Final = 64
_PART: Final = re.compile(
    r"base|refiner|text_encoder(_2)?|unet(\.mid|\.(down|up)(\.block_\d(\.\d)?)?)?"
)


def adapter_wishes(
    messages: Sequence[types_pb2.AdapterUse], limits: Limits, found: Violations
) -> tuple[AdapterWish, ...]:
    """Return the adapters that a request names, of those that can be understood."""
    if len(messages) > limits.max_adapters:
        found.add("adapters", f"{len(messages)} exceed the limit of {limits.max_adapters}")
        return ()
    seen: dict[object, int] = {}
    wishes: list[AdapterWish] = []
    for index, message in enumerate(messages):
        path = f"adapters[{index}]"
        meaning = _meaning(message.adapter, path, found)
        if meaning is not None and meaning in seen:
            found.add(f"{path}.adapter", f"is the same as adapters[{seen[meaning]}]")
        seen.setdefault(meaning, index)
        scale = message.scale if message.HasField("scale") else 1.0
        wishes.append(
            AdapterWish(
                reference=message.adapter,
                field=path,
                scale=found.number(f"{path}.scale", scale, -MAX_SCALE, MAX_SCALE),
                parts=_parts(message, path, found),
                force=message.force,
            )
        )
    return tuple(wishes)


def _meaning(reference: str, path: str, found: Violations) -> object | None:
    """Return what tells one adapter from another, None where the reference is none."""
    if not reference:
        found.add(f"{path}.adapter", "is required")
        return None
    try:
        return split_reference(reference, field_name=f"{path}.adapter")
    except InvalidRequest as invalid:
        for violation in invalid.violations:
            found.add(violation.field, violation.description)
        return None


def _parts(
    message: types_pb2.AdapterUse, path: str, found: Violations
) -> tuple[tuple[str, float], ...]:
    """Return the factors by part, in order of their names."""
    if len(message.parts) > MAX_PARTS:
        found.add(f"{path}.parts", f"{len(message.parts)} exceed the limit of {MAX_PARTS}")
        return ()
    for name, factor in sorted(message.parts.items()):
        if not _PART.fullmatch(name):
            found.add(
                f"{path}.parts",
                f"{shown(name)} is no part; base, refiner, text_encoder, text_encoder_2, unet, "
                "unet.down, unet.mid, unet.up, unet.up.block_1 and unet.up.block_1.0 are",
            )
        else:
            found.number(f"{path}.parts[{name}]", factor, -MAX_SCALE, MAX_SCALE)
    return tuple(sorted(message.parts.items()))

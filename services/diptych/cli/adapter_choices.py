"""How adapters are written on a command line: ``huggy:v2@0.8,unet.down=0.5,refiner=0``."""

from collections.abc import Mapping, Sequence
from typing import Final

from diptych.cli.refusals import Refusals
from diptych.clients.calls import AdapterChoice
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["noted_adapters", "parse_adapters", "parse_sources"]

FORCE: Final = "force"
"""Asks for an adapter although it was made for another model, where its shapes fit."""


def noted_adapters(texts: Sequence[str] | None, refusals: Refusals) -> tuple[AdapterChoice, ...]:
    """Return the adapters of a call, none where ``refusals`` had to note what is wrong."""
    found: list[AdapterChoice] = []
    with refusals.noting():
        found += parse_adapters(texts or ())
    return tuple(found)


def parse_adapters(texts: Sequence[str]) -> tuple[AdapterChoice, ...]:
    """Return the adapters of a call.

    Raises:
        InvalidRequest: A text is not ``NAME[:TAG][@SCALE][,PART=FACTOR...][,force]``; all such
            are named.
    """
    found: list[FieldViolation] = []
    choices = [_choice(index, text, found) for index, text in enumerate(texts)]
    if found:
        raise InvalidRequest(found)
    return tuple(choices)


def parse_sources(texts: Sequence[str]) -> Mapping[str, float]:
    """Return the weights of a merge's sources, by reference, in order.

    Raises:
        InvalidRequest: A text is not ``NAME[:TAG][@WEIGHT]``, or one comes twice; all are named.
    """
    found: list[FieldViolation] = []
    sources: dict[str, float] = {}
    for index, text in enumerate(texts):
        name, _, weight = text.partition("@")
        if name in sources:
            problem = f"{name!r:.80} comes twice; add its weights up"
            found.append(FieldViolation(field=f"sources[{index}]", description=problem))
        sources[name] = _number(weight or "1", f"sources[{index}].weight", found)
    if found:
        raise InvalidRequest(found)
    return sources


def _choice(index: int, text: str, found: list[FieldViolation]) -> AdapterChoice:
    path = f"adapters[{index}]"
    head, *parts = text.split(",")
    force = FORCE in parts
    name, at, scale = head.partition("@")
    factors: dict[str, float] = {}
    for part in (part for part in parts if part != FORCE):
        key, equals, value = part.partition("=")
        if not equals or not key or key in factors:
            problem = f"{part!r:.80} is not PART=FACTOR, each part once"
            found.append(FieldViolation(field=f"{path}.parts", description=problem))
        factors[key] = _number(value, f"{path}.parts[{key}]", found) if equals else 1.0
    return AdapterChoice(
        adapter=name,
        scale=_number(scale, f"{path}.scale", found) if at else None,
        parts=factors,
        force=force,
    )


def _number(text: str, field: str, found: list[FieldViolation]) -> float:
    try:
        return float(text)
    except ValueError:
        found.append(FieldViolation(field=field, description=f"{text!r:.80} is not a number"))
        return 1.0

"""What of a request's adapters is put on the device once and used at any scale.

A LoRA's update is proportional to its scale, so one copy serves all; only factors on blocks are
part of it. DoRA's is not, and the gains of several cannot be told apart later: the DoRAs of a
request are one unit together, scales and all.
"""

from dataclasses import dataclass

from diptych.inference.trajectory import AdapterUse, Expert, ImageRequest

__all__ = ["Member", "Unit", "scale_on", "unit_name", "unit_of", "units_of"]

_BLOCKS = "unet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One adapter of a unit."""

    digest: str
    parts: tuple[tuple[str, float], ...] = ()
    """Factors that are part of the copy: on blocks, or for DoRA all."""
    scale: float | None = None
    """Set only for DoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One thing that takes lines of the device."""

    members: tuple[Member, ...]


def units_of(request: ImageRequest) -> dict[Unit, tuple[AdapterUse, ...]]:
    """Return the units a request needs on the device, and which of its adapters each one is."""
    dora = tuple(sorted((use for use in request.adapters if use.dora), key=lambda u: u.digest))
    groups = [(use,) for use in request.adapters if not use.dora] + ([dora] if dora else [])
    return {_unit(group): group for group in groups}


def unit_of(use: AdapterUse) -> Unit:
    """Return the unit of an adapter that is used alone."""
    return _unit((use,))


def scale_on(use: AdapterUse, expert: Expert, encoder: str | None = None) -> float:
    """Return how strongly a unit's copy of a LoRA acts on a network.

    Args:
        use: A use of an adapter; of DoRA the scale is part of the copy, and this is 1.
        expert: Whose networks they are.
        encoder: ``text_encoder`` or ``text_encoder_2``; None is the UNet.
    """
    if use.dora:
        return 1.0
    parts = dict(use.parts)
    return use.scale * parts.get(str(expert), 1.0) * (parts.get(encoder, 1.0) if encoder else 1.0)


def unit_name(unit: Unit) -> str:
    """Return what a unit's copy is, spelt so that no two units share it."""
    return " + ".join(
        f"{member.digest} {dict(member.parts)!r} {member.scale!r}" for member in unit.members
    )


def _unit(uses: tuple[AdapterUse, ...]) -> Unit:
    return Unit(members=tuple(_member(use) for use in uses))


def _member(use: AdapterUse) -> Member:
    if use.dora:
        return Member(digest=use.digest, parts=use.parts, scale=use.scale)
    blocks = [item for item in use.parts if item[0].split(".", maxsplit=1)[0] == _BLOCKS]
    return Member(digest=use.digest, parts=tuple(sorted(blocks)))

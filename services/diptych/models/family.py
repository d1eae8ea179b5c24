"""The families of SDXL-like experts: what is fixed about each, and how one is recognised.

A family is told from a checkpoint's configuration. Only the few-step distillations of the base
(Turbo, Lightning) are built exactly like it: they are told from the scheduler they come with
or from the name of their source, and a caller may always say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from diptych.errors import CheckpointInvalid, FieldViolation, SettingInvalid

__all__ = ["FAMILIES", "Family", "detect_family"]

_NUM_IDS_WITH_TARGET_SIZE = 6
_NUM_IDS_WITH_AESTHETICS = 5
_PIXELS_PER_LATENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Facts and defaults shared by every checkpoint of one kind. Sizes are pixels."""

    name: str
    default_size: int = 1024
    min_size: int = 256
    max_size: int = 2048
    size_multiple: int = _PIXELS_PER_LATENT
    """Sides are multiples of this: one latent pixel."""
    latent_channels: int = 4
    num_time_ids: int = _NUM_IDS_WITH_TARGET_SIZE
    cross_attention_dim: int = 2048
    """Width of the hidden states: of both encoders, or of ``text_encoder_2`` alone."""
    pooled_dim: int = 1280
    uses_text_encoder: bool = True
    """Whether the first text encoder takes part; refiners have ``text_encoder_2`` only."""
    transformer_depths: tuple[tuple[int, ...], ...] | None = None
    """Transformer blocks of each attention, per level going down; None when it varies."""
    is_edm: bool = False
    timestep_spacing: str | None = None
    """Spacing the family must be sampled with whatever its scheduler says; None keeps that."""
    default_solver: str = "euler"
    default_num_steps: int = 40
    default_guidance_scale: float = 5.0
    """1 or below is no guidance: distilled families go without."""

    @property
    def requires_aesthetics_score(self) -> bool:
        """Whether the last time id is an aesthetic score instead of the target size."""
        return self.num_time_ids == _NUM_IDS_WITH_AESTHETICS

    def time_ids(
        self,
        *,
        original_size: tuple[int, int],
        crop_top_left: tuple[int, int],
        target_size: tuple[int, int],
        aesthetic_score: float,
    ) -> tuple[float, ...]:
        """Return the micro-conditions [5 or 6] in the order the UNet was trained with.

        Sizes are (height, width). For the unconditional row of a refiner pass the negative
        aesthetic score; every other row of a request has the same ids (Podell et al. 2023, 2.2).
        """
        if self.requires_aesthetics_score:
            last: tuple[float, ...] = (aesthetic_score,)
        else:
            last = target_size
        return tuple(float(value) for value in (*original_size, *crop_top_left, *last))


_BASE = Family(name="sdxl-base", transformer_depths=((), (2, 2), (10, 10)))

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _BASE,
        replace(_BASE, name="ssd-1b", transformer_depths=((), (2, 2), (4, 4))),
        replace(_BASE, name="segmind-vega", transformer_depths=((), (1, 1), (2, 2))),
        replace(
            _BASE,
            name="playground-v2.5",
            is_edm=True,
            default_solver="edm_dpmpp_2m",
            default_num_steps=50,
            default_guidance_scale=3.0,
        ),
        Family(
            name="sdxl-refiner",
            num_time_ids=_NUM_IDS_WITH_AESTHETICS,
            cross_attention_dim=1280,
            uses_text_encoder=False,
            transformer_depths=((), (4, 4), (4, 4), ()),
        ),
        replace(
            _BASE,
            name="sdxl-turbo",
            default_size=512,
            timestep_spacing="trailing",
            default_solver="euler_ancestral",
            default_num_steps=4,
            default_guidance_scale=0.0,
        ),
        replace(
            _BASE,
            name="sdxl-lightning",
            timestep_spacing="trailing",
            default_num_steps=4,
            default_guidance_scale=0.0,
        ),
        Family(
            name="nano",
            default_size=128,
            min_size=64,
            max_size=256,
            cross_attention_dim=128,
            pooled_dim=64,
            default_guidance_scale=2.0,
        ),
    )
}
"""Every family by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Structure:
    """What of a family a checkpoint's configuration shows."""

    latent_channels: int
    num_time_ids: int
    cross_attention_dim: int
    pooled_dim: int
    uses_text_encoder: bool
    transformer_depths: tuple[tuple[int, ...], ...]
    is_edm: bool


def detect_family(
    source: str,
    *,
    unet: Mapping[str, object],
    text_encoder_2: Mapping[str, object],
    scheduler: Mapping[str, object],
    has_text_encoder: bool,
    override: str | None = None,
) -> Family:
    """Return the family of a checkpoint from the configurations of its parts.

    A UNet of SDXL's kind that fits no family keeps its own numbers under the name ``custom``.

    Raises:
        CheckpointInvalid: not a UNet of SDXL's kind, or not of the family in ``override``.
        SettingInvalid: ``override`` is no family.
    """
    structure = _read_structure(
        source, unet, text_encoder_2, scheduler=scheduler, has_text_encoder=has_text_encoder
    )
    if override is not None:
        return _checked_override(source, structure, override)
    fitting = [family for family in FAMILIES.values() if not _misfits(structure, family)]
    if not fitting:
        return _custom(structure, unet)
    for family in fitting:
        if family.timestep_spacing and _is_few_step(family, source, scheduler):
            return family
    return fitting[0]


def _read_structure(
    source: str,
    unet: Mapping[str, object],
    text_encoder_2: Mapping[str, object],
    *,
    scheduler: Mapping[str, object],
    has_text_encoder: bool,
) -> _Structure:
    if unet.get("addition_embed_type") != "text_time":
        kind = unet.get("addition_embed_type")
        problem = f"UNet has addition_embed_type {kind!r}, SDXL's is 'text_time'"
        raise CheckpointInvalid(source, problem)
    pooled_dim = _size(source, text_encoder_2, "projection_dim")
    id_width = _size(source, unet, "addition_time_embed_dim")
    added = _size(source, unet, "projection_class_embeddings_input_dim") - pooled_dim
    num_time_ids, remainder = divmod(added, id_width)
    if remainder or num_time_ids not in {_NUM_IDS_WITH_AESTHETICS, _NUM_IDS_WITH_TARGET_SIZE}:
        problem = f"UNet takes {added} channels of time ids {id_width} wide, SDXL has 5 or 6 ids"
        raise CheckpointInvalid(source, problem)
    in_channels, out_channels = (_size(source, unet, f"{end}_channels") for end in ("in", "out"))
    if in_channels != out_channels:
        problem = f"UNet has {in_channels} channels in and {out_channels} out (inpainting?)"
        raise CheckpointInvalid(source, problem)
    return _Structure(
        latent_channels=in_channels,
        num_time_ids=num_time_ids,
        cross_attention_dim=_size(source, unet, "cross_attention_dim"),
        pooled_dim=pooled_dim,
        uses_text_encoder=has_text_encoder,
        transformer_depths=_transformer_depths(source, unet),
        is_edm=str(scheduler.get("_class_name", "")).startswith("EDM"),
    )


def _size(source: str, config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointInvalid(source, f"configuration has {key} {value!r}, expected a size")
    return value


def _transformer_depths(source: str, unet: Mapping[str, object]) -> tuple[tuple[int, ...], ...]:
    blocks, depths = unet.get("down_block_types"), unet.get("transformer_layers_per_block", 1)
    num_layers = unet.get("layers_per_block", 2)
    if not isinstance(blocks, list | tuple) or not isinstance(num_layers, int):
        raise CheckpointInvalid(source, "UNet has no plain down_block_types or layers_per_block")
    levels = depths if isinstance(depths, list | tuple) else [depths] * len(blocks)
    if len(levels) != len(blocks):
        problem = f"UNet has {len(blocks)} levels and transformer layers for {len(levels)}"
        raise CheckpointInvalid(source, problem)
    return tuple(
        (tuple(depth) if isinstance(depth, list | tuple) else (cast("int", depth),) * num_layers)
        if "CrossAttn" in str(block)
        else ()
        for block, depth in zip(blocks, levels, strict=True)
    )


def _misfits(structure: _Structure, family: Family) -> list[str]:
    """Return what contradicts ``family``, as sentences; empty when it fits."""
    facts = (
        "latent_channels",
        "num_time_ids",
        "cross_attention_dim",
        "pooled_dim",
        "uses_text_encoder",
        "transformer_depths",
        "is_edm",
    )
    return [
        f"{fact} {found!r}, expected {expected!r}"
        for fact in facts
        if (expected := getattr(family, fact)) is not None
        and (found := getattr(structure, fact)) != expected
    ]


def _checked_override(source: str, structure: _Structure, override: str) -> Family:
    if override not in FAMILIES:
        description = f"unknown family {override!r}, expected one of {', '.join(FAMILIES)}"
        raise SettingInvalid([FieldViolation(field="family", description=description)])
    if misfits := _misfits(structure, FAMILIES[override]):
        raise CheckpointInvalid(source, f"is not of family {override}: {'; '.join(misfits)}")
    return FAMILIES[override]


def _is_few_step(family: Family, source: str, scheduler: Mapping[str, object]) -> bool:
    name = source.rstrip("/").rsplit("/", 1)[-1].lower()
    if family.name.removeprefix("sdxl-") in name:
        return True
    return (
        family.default_solver == "euler_ancestral"
        and scheduler.get("_class_name") == "EulerAncestralDiscreteScheduler"
        and scheduler.get("timestep_spacing") == "trailing"
    )


def _custom(structure: _Structure, unet: Mapping[str, object]) -> Family:
    sample_size = unet.get("sample_size")
    latent_size = sample_size if isinstance(sample_size, int) and sample_size > 0 else 128
    default_size = latent_size * _PIXELS_PER_LATENT
    return Family(
        name="custom",
        default_size=default_size,
        min_size=max(64, default_size // 4),
        max_size=2 * default_size,
        latent_channels=structure.latent_channels,
        num_time_ids=structure.num_time_ids,
        cross_attention_dim=structure.cross_attention_dim,
        pooled_dim=structure.pooled_dim,
        uses_text_encoder=structure.uses_text_encoder,
        transformer_depths=structure.transformer_depths,
        is_edm=structure.is_edm,
        default_solver="edm_euler" if structure.is_edm else "euler",
    )

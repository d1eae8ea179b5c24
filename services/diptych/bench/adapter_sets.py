"""Sixteen unlike sets of adapters: every kind, in the files that people have them in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from diptych.adapters.adapter import Adapter, Component, Stage
from diptych.adapters.writing import write_adapter
from diptych.bench.adapter_makers import (
    ATTENTION,
    CONVOLUTIONS,
    EVERY_LAYER,
    TRANSFORMERS,
    Made,
    make,
)
from diptych.bench.recipes import Recipe, mixed_recipes
from diptych.clients.calls import AdapterChoice
from diptych.inference.base_weights import BaseWeights

__all__ = ["SETS", "AdapterFiles", "AdapterSet", "Used", "files_of", "recipes_for"]

TOKEN: Final = "<s0>"  # noqa: S105 - a word of a prompt
_ALL: Final = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
_DIFFUSERS: Final = "diffusers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One adapter of a set."""

    name: str
    scale: float = 1.0
    parts: Mapping[str, float] = field(default_factory=dict)

    def choice(self) -> AdapterChoice:
        """Return it as a client asks for it."""
        return AdapterChoice(adapter=self.name, scale=self.scale, parts=self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSet:
    """What one request uses."""

    title: str
    uses: tuple[Used, ...] = ()
    in_weights: bool = False
    """Compared with updates added to the weights in float64, as diffusers drops or refuses it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterFiles:
    """An adapter, and the files of it that both sides are given."""

    adapter: Adapter
    imported: bytes
    """What the server imports."""
    lora: bytes | None
    """What diffusers loads; the same bytes unless learned tokens lie beside."""


_MADE: Final[Mapping[str, tuple[Made, str]]] = {
    "attention-4": (Made(seed=1, rank=4), _DIFFUSERS),
    "transformers-16": (Made(seed=2, rank=16, layers=TRANSFORMERS, alpha=8), _DIFFUSERS),
    "convolutions-8": (Made(seed=3, rank=8, layers=CONVOLUTIONS, alpha=4), _DIFFUSERS),
    "everything-32": (Made(seed=4, rank=32, layers=EVERY_LAYER), _DIFFUSERS),
    "encoders-8": (Made(seed=5, rank=8, components=_ALL, layers=TRANSFORMERS), _DIFFUSERS),
    "dora-16": (Made(seed=6, rank=16, norms="outputs"), _DIFFUSERS),
    "dora-encoders-8": (Made(seed=7, rank=8, norms="outputs", components=_ALL), _DIFFUSERS),
    "token": (Made(seed=8, token=TOKEN), _DIFFUSERS),
    "pivotal-12": (Made(seed=9, rank=12, components=_ALL, token=TOKEN), _DIFFUSERS),
    "attention-64": (Made(seed=10, rank=64), _DIFFUSERS),
    "base-24": (Made(seed=11, rank=24, layers=TRANSFORMERS, stage=Stage.BASE), _DIFFUSERS),
    "refiner-10": (Made(seed=12, rank=10, components=_ALL, stage=Stage.REFINER), _DIFFUSERS),
    "kohya-6": (Made(seed=13, rank=6, layers=ATTENTION, components=_ALL, alpha=3), "kohya"),
    "dora-inputs-16": (Made(seed=14, rank=16, layers=TRANSFORMERS, norms="inputs"), "kohya"),
    "locon-9": (
        Made(seed=15, rank=9, layers=EVERY_LAYER, components=_ALL, unlike_alphas=True),
        "kohya",
    ),
}
_BLOCKS: Final = {"unet.down": 0.3, "unet.mid": 1.5, "unet.up.block_0": 0.6, "text_encoder": 0.5}

SETS: Final = (
    AdapterSet(title="none"),
    AdapterSet(title="attention, rank 4", uses=(Used(name="attention-4"),)),
    AdapterSet(title="transformers, rank 16", uses=(Used(name="transformers-16", scale=0.7),)),
    AdapterSet(title="LoCon, rank 8", uses=(Used(name="convolutions-8", scale=0.9),)),
    AdapterSet(title="every layer of the UNet, rank 32", uses=(Used(name="everything-32"),)),
    AdapterSet(title="UNet and both encoders, rank 8", uses=(Used(name="encoders-8", scale=0.8),)),
    AdapterSet(title="DoRA, rank 16", uses=(Used(name="dora-16", scale=0.9),)),
    AdapterSet(title="DoRA of encoders too, rank 8", uses=(Used(name="dora-encoders-8"),)),
    AdapterSet(title="learned token", uses=(Used(name="token"),)),
    AdapterSet(title="all parts and their token", uses=(Used(name="pivotal-12", scale=0.6),)),
    AdapterSet(
        title="two, ranks 4 and 64",
        uses=(Used(name="attention-4", scale=-0.4), Used(name="attention-64", scale=0.6)),
    ),
    AdapterSet(
        title="three, of both spellings, with a token",
        uses=(
            Used(name="kohya-6", scale=0.5),
            Used(name="convolutions-8", scale=0.4),
            Used(name="token"),
        ),
    ),
    AdapterSet(title="scales by block", uses=(Used(name="encoders-8", parts=_BLOCKS),)),
    AdapterSet(
        title="one of each stage",
        uses=(Used(name="base-24", scale=0.8), Used(name="refiner-10", scale=0.9)),
    ),
    AdapterSet(
        title="DoRA over inputs (dora_scale), rank 16",
        uses=(Used(name="dora-inputs-16", scale=0.8),),
        in_weights=True,
    ),
    AdapterSet(
        title="LoCon of every layer, unlike alphas", uses=(Used(name="locon-9"),), in_weights=True
    ),
)  # fmt: skip
"""Ranks 4 to 64; their adapters need 233 lines together."""


def files_of(base: BaseWeights) -> dict[str, AdapterFiles]:
    """Return every adapter of ``SETS`` by name, made for ``base``, and its files."""
    return {name: _files(make(made, base), spelling) for name, (made, spelling) in _MADE.items()}


def recipes_for(count: int, *, num_steps: int) -> list[Recipe]:
    """Return requests that are alike in length, so that they can share every tick.

    Each of them names the learned token, which only some sets know. diffusers' Heun does not know
    the pair's schedule.
    """
    return [
        replace(
            recipe,
            prompt=f"{recipe.prompt} {TOKEN}",
            num_steps=num_steps,
            boundary=0.5,
            solver="unipc" if recipe.solver == "heun" else recipe.solver,
        )
        for recipe in mixed_recipes(count)
    ]


def _files(adapter: Adapter, spelling: str) -> AdapterFiles:
    if adapter.tokens:
        (imported,) = write_adapter(adapter, "bundle").values()
        lora = write_adapter(replace(adapter, tokens={}), spelling) if adapter.targets else {}
        return AdapterFiles(
            adapter=adapter, imported=imported, lora=next(iter(lora.values()), None)
        )
    # The other style numbers blocks as SDXL does, unless an adapter is seen to have fewer.
    (lora_file,) = write_adapter(adapter, spelling, style="diffusers").values()
    return AdapterFiles(adapter=adapter, imported=lora_file, lora=lora_file)

"""``diptych refine``: the refiner alone, on latents that ``generate`` wrote or on a picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn

import numpy as np
import typer

from diptych.cli.adapter_choices import noted_adapters
from diptych.cli.calling import Destination, Where, run
from diptych.cli.files import DEFAULT_FORMAT, LatentsFile, format_of, is_latents_file, read_latents
from diptych.cli.options import (
    REFINE_FLAGS,
    AdapterOption,
    AsJson,
    Boundary,
    Format,
    Guidance,
    LongPromptOption,
    Negative,
    Out,
    PreviewEvery,
    Quality,
    RefinerModelOption,
    Seed,
    Server,
    Solver,
    Steps,
    Timeout,
    TokenFile,
)
from diptych.cli.refusals import Refusals
from diptych.cli.report import reporting
from diptych.clients.calls import ImageSource, Latents, RefineCall, Stage
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["refine"]

MAX_DIGITS: Final = 20
"""Of a whole number in a latents file; the server's limits are far below."""

RefineRescale = Annotated[
    float | None,
    typer.Option(
        "--guidance-rescale",
        help="0 to 1; keeps contrast. By default what the latents were made with.",
        rich_help_panel="Prompts and guidance",
    ),
]

Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        "-p",
        help="What the picture shows; by default what the latents were made for.",
        rich_help_panel="Prompts and guidance",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        "--strength",
        help="Share of the steps done anew, in (0, 1]; for pictures. 0.3 otherwise.",
        rich_help_panel="Sampling",
    ),
]
NumVariations = Annotated[
    int | None,
    typer.Option(
        "--num-images", "-n", help="Variations of a picture to make.", rich_help_panel="Sampling"
    ),
]


def refine(
    source: Annotated[
        Path, typer.Argument(help="Latents (.safetensors) or a picture (PNG, WebP, JPEG).")
    ],
    *,
    prompt: Prompt = None,
    negative: Negative = None,
    guidance: Guidance = None,
    guidance_rescale: RefineRescale = None,
    long_prompt: LongPromptOption = "error",
    strength: Strength = None,
    boundary: Boundary = None,
    steps: Steps = None,
    solver: Solver = None,
    seed: Seed = None,
    num_images: NumVariations = None,
    adapter: AdapterOption = None,
    output_format: Format = None,
    quality: Quality = 90,
    preview_every: PreviewEvery = 0,
    out: Out = None,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    refiner: RefinerModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Run the refiner on latents at a boundary, or on a picture with --strength."""
    with reporting(as_json=as_json, flags=REFINE_FLAGS) as report:
        refusals, chosen = Refusals(), DEFAULT_FORMAT
        found, made_with = _stand_in(source), _Facts({}, refusals)
        with refusals.noting():
            chosen = format_of(output_format, out)
        with refusals.noting():
            found, made_with = _read(source, strength, refusals)
        call = RefineCall(
            refiner=_stage(made_with, prompt, negative, guidance, guidance_rescale),
            source=found,
            boundary=boundary,
            num_images=num_images,
            seed=made_with.whole("seed") if seed is None else seed,
            num_steps=steps,
            solver=_first(solver, made_with.words("solver")),
            spacing=made_with.words("spacing"),
            sigma_schedule=made_with.words("sigma_schedule"),
            eta=made_with.number("eta"),
            long_prompt=long_prompt,
            output=chosen,
            quality=quality,
            preview_every=preview_every,
            adapters=noted_adapters(adapter, refusals),
        )
        where = Where(server=server, token_file=token_file, timeout_s=timeout, refiner=refiner)
        destination = Destination(out=out, output_format=chosen)
        run(report, call, where=where, destination=destination, refusals=refusals)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a latents file says of how its latents were made; what cannot be read is noted."""

    metadata: Mapping[str, str]
    refusals: Refusals

    def words(self, name: str) -> str | None:
        """Return a text, None where there is none."""
        return self.metadata.get(name)

    def number(self, name: str) -> float | None:
        """Return a finite number, None where there is none."""
        text = self.metadata.get(name)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        self._note(name, text, "number")
        return None

    def whole(self, name: str) -> int | None:
        """Return a whole number, None where there is none."""
        text = self.metadata.get(name)
        if text is None:
            return None
        if text.isdecimal() and len(text) <= MAX_DIGITS:
            return int(text)
        self._note(name, text, "whole number")
        return None

    def _note(self, name: str, text: str, kind: str) -> None:
        self.refusals.add("latents", f"metadata {name} is {text!r:.80}, which is no {kind}")


def _stage(
    made_with: _Facts,
    prompt: str | None,
    negative: str | None,
    guidance: float | None,
    guidance_rescale: float | None,
) -> Stage:
    """Return the refiner's stage; what no flag gives is what the latents were made with.

    As in ``generate``, the refiner's own settings come before the base's.
    """

    def words(given: str | None, name: str) -> str | None:
        found = (made_with.words(f"{stage}.{name}") for stage in ("refiner", "base"))
        return _first(given, *found)

    def number(given: float | None, name: str) -> float | None:
        found = (made_with.number(f"{stage}.{name}") for stage in ("refiner", "base"))
        return next((value for value in (given, *found) if value is not None), None)

    return Stage(
        prompt=words(prompt, "prompt") or "",
        negative_prompt=words(negative, "negative_prompt"),
        guidance_scale=number(guidance, "guidance_scale"),
        guidance_rescale=number(guidance_rescale, "guidance_rescale") or 0.0,
    )


def _read(
    source: Path, strength: float | None, refusals: Refusals
) -> tuple[Latents | ImageSource, _Facts]:
    """Return what is to be refined, and the settings it was made with.

    Raises:
        InvalidRequest: The file cannot be read.
    """
    if not is_latents_file(source):
        try:
            data = source.read_bytes()
        except OSError as problem:
            _refuse("image.data", f"cannot read {source}: {problem.strerror or problem}")
        return ImageSource(data=data, strength=strength), _Facts({}, refusals)
    if strength is not None:
        refusals.add("image.strength", f"{strength} is for pictures and {source} holds latents")
    file = read_latents(source)
    facts = _Facts(file.metadata, refusals)
    return _latents(file, facts), facts


def _latents(file: LatentsFile, facts: _Facts) -> Latents:
    return Latents(
        values=file.latents,
        family=facts.words("family") or "",
        boundary=facts.number("boundary"),
        num_steps=facts.whole("num_steps"),
        num_draws=facts.whole("num_draws") or 0,
    )


def _stand_in(source: Path) -> Latents | ImageSource:
    """Return what the rest of a call is checked with while its source cannot be read."""
    if is_latents_file(source):
        return Latents(values=np.zeros((1, 4, 16, 16), np.float32), boundary=0.5)
    return ImageSource(data=b"")


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidRequest([FieldViolation(field=field, description=description)])

"""``diptych refine``: the refiner alone, on latents that ``generate`` wrote or on a picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from diptych.cli.calling import Destination, Where, run
from diptych.cli.files import LatentsFile, format_of, is_latents_file, read_latents
from diptych.cli.options import (
    REFINE_FLAGS,
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
        chosen = format_of(output_format, out)
        found, made_with = _read(source, strength)
        call = RefineCall(
            refiner=_stage(made_with, prompt, negative, guidance, guidance_rescale),
            source=found,
            boundary=boundary,
            num_images=num_images,
            seed=_whole(made_with, "seed") if seed is None else seed,
            num_steps=steps,
            solver=_first(solver, made_with.get("solver")),
            spacing=made_with.get("spacing"),
            sigma_schedule=made_with.get("sigma_schedule"),
            eta=_number(made_with, "eta"),
            long_prompt=long_prompt,
            output=chosen,
            quality=quality,
            preview_every=preview_every,
        )
        where = Where(server=server, token_file=token_file, timeout_s=timeout, refiner=refiner)
        run(report, call, where=where, destination=Destination(out=out, output_format=chosen))


def _stage(
    made_with: Mapping[str, str],
    prompt: str | None,
    negative: str | None,
    guidance: float | None,
    guidance_rescale: float | None,
) -> Stage:
    """Return the refiner's stage; what no flag gives is what the latents were made with.

    As in ``generate``, the refiner's own settings come before the base's.
    """

    def words(given: str | None, name: str) -> str | None:
        return _first(given, made_with.get(f"refiner.{name}"), made_with.get(f"base.{name}"))

    def number(given: float | None, name: str) -> float | None:
        found = (given, _number(made_with, f"refiner.{name}"), _number(made_with, f"base.{name}"))
        return next((value for value in found if value is not None), None)

    return Stage(
        prompt=words(prompt, "prompt") or "",
        negative_prompt=words(negative, "negative_prompt"),
        guidance_scale=number(guidance, "guidance_scale"),
        guidance_rescale=number(guidance_rescale, "guidance_rescale") or 0.0,
    )


def _read(source: Path, strength: float | None) -> tuple[Latents | ImageSource, Mapping[str, str]]:
    """Return what is to be refined, and the settings it was made with."""
    if not is_latents_file(source):
        try:
            return ImageSource(data=source.read_bytes(), strength=strength), {}
        except OSError as problem:
            _refuse("image.data", f"cannot read {source}: {problem.strerror or problem}")
    if strength is not None:
        _refuse("image.strength", f"{strength} is for pictures and {source} holds latents")
    file = read_latents(source)
    return _latents(file), file.metadata


def _latents(file: LatentsFile) -> Latents:
    return Latents(
        values=file.latents,
        family=file.metadata.get("family", ""),
        boundary=_number(file.metadata, "boundary"),
        num_steps=_whole(file.metadata, "num_steps"),
        num_draws=_whole(file.metadata, "num_draws") or 0,
    )


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)


def _number(metadata: Mapping[str, str], name: str) -> float | None:
    """Return a number of the file's metadata, None where there is none.

    Raises:
        InvalidRequest: It is there and is no finite number.
    """
    text = metadata.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        _refuse("latents", f"metadata {name} is {text!r:.80}, which is no number")
    return number


def _whole(metadata: Mapping[str, str], name: str) -> int | None:
    text = metadata.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        _refuse("latents", f"metadata {name} is {text!r:.80}, which is no whole number")
    return int(text)


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidRequest([FieldViolation(field=field, description=description)])

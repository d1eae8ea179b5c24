"""Flags that several commands share, and which field of a request each one sets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from diptych.errors import FieldViolation, InvalidRequest

__all__ = [
    "GENERATE_FLAGS",
    "REFINE_FLAGS",
    "SOLVER_HELP",
    "AdapterOption",
    "AsJson",
    "BaseModelOption",
    "Boundary",
    "Format",
    "Guidance",
    "GuidanceRescale",
    "LongPromptOption",
    "Negative",
    "NumImages",
    "Out",
    "PreviewEvery",
    "Quality",
    "RefinerModelOption",
    "Seed",
    "Server",
    "Solver",
    "Steps",
    "Timeout",
    "TokenFile",
    "parse_size",
]

SOLVER_HELP: Final = (
    "euler, euler_ancestral, heun, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, edm_euler, "
    "edm_dpmpp_2m, lcm or tcd; the server's default otherwise."
)

_STAGES, _SAMPLING, _OUTPUT, _WHERE = "Prompts and guidance", "Sampling", "Output", "Where"

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and no progress.", show_default=False)
]
Negative = Annotated[
    str | None,
    typer.Option("--negative", help="What the picture should not show.", rich_help_panel=_STAGES),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        help="Weight of classifier-free guidance; 1 turns it off. The checkpoint's own otherwise.",
        rich_help_panel=_STAGES,
    ),
]
GuidanceRescale = Annotated[
    float,
    typer.Option("--guidance-rescale", help="0 to 1; keeps contrast.", rich_help_panel=_STAGES),
]
LongPromptOption = Annotated[
    str,
    typer.Option(
        "--long-prompt",
        help="A prompt beyond the encoders' window: error, truncate or chunk.",
        rich_help_panel=_STAGES,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Steps of the whole schedule.", rich_help_panel=_SAMPLING),
]
Boundary = Annotated[
    float | None,
    typer.Option(
        "--boundary",
        help="Share of the schedule the base expert does, in (0, 1); 0.65 where both run.",
        rich_help_panel=_SAMPLING,
    ),
]
Solver = Annotated[
    str | None, typer.Option("--solver", help=SOLVER_HELP, rich_help_panel=_SAMPLING)
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", help="Image i draws its noise from seed + i; random.", rich_help_panel=_SAMPLING
    ),
]
NumImages = Annotated[
    int, typer.Option("--num-images", "-n", help="Pictures to paint.", rich_help_panel=_SAMPLING)
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="png, webp, jpeg or latents; by the suffix of -o otherwise.",
        rich_help_panel=_OUTPUT,
    ),
]
Quality = Annotated[
    int, typer.Option("--quality", help="1 to 100, for WebP and JPEG.", rich_help_panel=_OUTPUT)
]
PreviewEvery = Annotated[
    int,
    typer.Option(
        "--preview-every",
        help="Write a preview beside the picture every so many steps; 0 writes none.",
        rich_help_panel=_OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="File, folder, or pattern with {seed} or {index}; ./diptych-SEED.png otherwise.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        help="NAME[:TAG]\\[@SCALE][,PART=FACTOR...][,force], such as huggy@0.8,unet.down=0.5; "
        "repeatable.",
        show_default=False,
        rich_help_panel="Adapters",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="HOST:PORT of a running service; an embedded one otherwise.",
        rich_help_panel=_WHERE,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", help="Seconds the whole call may take.", min=0.001, rich_help_panel=_WHERE
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="File that holds the token the server asks for.",
        exists=True,
        dir_okay=False,
        rich_help_panel=_WHERE,
    ),
]
BaseModelOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Base expert: nano, a folder, a .safetensors file, a Hugging Face id, s3://, or none.",
        rich_help_panel="Models",
    ),
]
RefinerModelOption = Annotated[
    str | None,
    typer.Option(
        "--refiner", help="Refiner expert, named like the base.", rich_help_panel="Models"
    ),
]

_SHARED_FLAGS: Final[Mapping[str, str]] = {
    "boundary": "--boundary",
    "num_images": "--num-images",
    "num_steps": "--steps",
    "output": "--format",
    "out": "--out",
    "preview_every": "--preview-every",
    "quality": "--quality",
    "seed": "--seed",
    "solver": "--solver",
    "long_prompt": "--long-prompt",
    "adapters": "--adapter",
}

GENERATE_FLAGS: Final[Mapping[str, str]] = {
    **_SHARED_FLAGS,
    "base_only": "--base-only",
    "base.prompt": "PROMPT",
    "base.negative_prompt": "--negative",
    "base.guidance_scale": "--guidance",
    "base.guidance_rescale": "--guidance-rescale",
    "refiner.prompt": "--refiner-prompt",
    "refiner.negative_prompt": "--refiner-negative",
    "refiner.guidance_scale": "--refiner-guidance",
    "refiner.guidance_rescale": "--refiner-guidance-rescale",
    "history": "--solver-history",
    "width": "--size",
    "height": "--size",
    "size": "--size",
}
"""Field of GenerateRequest -> the flag that sets it."""

REFINE_FLAGS: Final[Mapping[str, str]] = {
    **_SHARED_FLAGS,
    "refiner.prompt": "--prompt",
    "refiner.negative_prompt": "--negative",
    "refiner.guidance_scale": "--guidance",
    "refiner.guidance_rescale": "--guidance-rescale",
    "latents": "SOURCE",
    "image.data": "SOURCE",
    "image.strength": "--strength",
}
"""Field of RefineRequest -> the flag that sets it."""


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of ``WxH``.

    Raises:
        InvalidRequest: It is not two whole numbers with an x between.
    """
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())  # noqa: RUF001 - typed by people
    if match is None:
        raise InvalidRequest(
            [FieldViolation(field="size", description=f"{text!r} is not WxH, such as 1024x768")]
        )
    return int(match[1]), int(match[2])

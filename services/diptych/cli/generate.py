"""``diptych generate``: prompts in, pictures or latents out."""

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.adapter_choices import noted_adapters
from diptych.cli.calling import Destination, Where, run
from diptych.cli.files import DEFAULT_FORMAT, format_of
from diptych.cli.options import (
    GENERATE_FLAGS,
    AdapterOption,
    AsJson,
    BaseModelOption,
    Boundary,
    Format,
    Guidance,
    GuidanceRescale,
    LongPromptOption,
    Negative,
    NumImages,
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
    parse_size,
)
from diptych.cli.refusals import Refusals
from diptych.cli.report import reporting
from diptych.clients.calls import GenerateCall, Stage

__all__ = ["generate"]

_STAGES, _SAMPLING = "Prompts and guidance", "Sampling"

RefinerPrompt = Annotated[
    str | None,
    typer.Option(
        "--refiner-prompt", help="For the refiner; the base's otherwise.", rich_help_panel=_STAGES
    ),
]
RefinerNegative = Annotated[
    str | None,
    typer.Option(
        "--refiner-negative", help="For the refiner; the base's otherwise.", rich_help_panel=_STAGES
    ),
]
RefinerGuidance = Annotated[
    float | None,
    typer.Option(
        "--refiner-guidance", help="For the refiner; the base's otherwise.", rich_help_panel=_STAGES
    ),
]
RefinerGuidanceRescale = Annotated[
    float | None,
    typer.Option(
        "--refiner-guidance-rescale",
        help="For the refiner; the base's otherwise.",
        rich_help_panel=_STAGES,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="WxH", help="Pixels, multiples of 8.", rich_help_panel=_SAMPLING
    ),
]
SolverHistory = Annotated[
    str,
    typer.Option(
        "--solver-history",
        help="What a multistep solver does at the boundary: restart or carry.",
        rich_help_panel=_SAMPLING,
    ),
]
BaseOnly = Annotated[
    bool,
    typer.Option(
        "--base-only",
        help="No refiner: up to --boundary where given, else the whole schedule.",
        rich_help_panel=_SAMPLING,
    ),
]

Refined = tuple[str | None, str | None, float | None, float | None]
"""What the flags say of the refiner: prompt, negative prompt, guidance and its rescale."""


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.", show_default=False)],
    *,
    negative: Negative = None,
    refiner_prompt: RefinerPrompt = None,
    refiner_negative: RefinerNegative = None,
    guidance: Guidance = None,
    refiner_guidance: RefinerGuidance = None,
    guidance_rescale: GuidanceRescale = 0.0,
    refiner_guidance_rescale: RefinerGuidanceRescale = None,
    long_prompt: LongPromptOption = "error",
    steps: Steps = 40,
    boundary: Boundary = None,
    base_only: BaseOnly = False,
    solver: Solver = None,
    solver_history: SolverHistory = "restart",
    seed: Seed = None,
    num_images: NumImages = 1,
    size: Size = None,
    adapter: AdapterOption = None,
    output_format: Format = None,
    quality: Quality = 90,
    preview_every: PreviewEvery = 0,
    out: Out = None,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Paint pictures from a prompt, with a base expert and a refiner."""
    with reporting(as_json=as_json, flags=GENERATE_FLAGS) as report:
        refusals = Refusals()
        destination = _destination(output_format, out, refusals)
        width, height = _chosen_size(size, refusals)
        adapters = noted_adapters(adapter, refusals)
        stage = _stage(prompt, negative, guidance, guidance_rescale)
        refined = refiner_prompt, refiner_negative, refiner_guidance, refiner_guidance_rescale
        refined = _without_refiner(refined, refusals) if base_only else refined
        call = GenerateCall(
            base=stage,
            refiner=_refiner_stage(stage, *refined),
            base_only=base_only,
            boundary=boundary,
            width=width,
            height=height,
            num_images=num_images,
            seed=seed,
            num_steps=steps,
            solver=solver,
            history=solver_history,
            long_prompt=long_prompt,
            output=destination.output_format,
            quality=quality,
            preview_every=preview_every,
            adapters=adapters,
        )
        where = Where.of(server, token_file, timeout, base=base, refiner=refiner)
        run(report, call, where=where, destination=destination, refusals=refusals)


def _destination(output_format: str | None, out: Path | None, refusals: Refusals) -> Destination:
    chosen = DEFAULT_FORMAT
    with refusals.noting():
        chosen = format_of(output_format, out)
    return Destination(out=out, output_format=chosen)


def _chosen_size(size: str | None, refusals: Refusals) -> tuple[int | None, int | None]:
    width: int | None = None
    height: int | None = None
    with refusals.noting():
        width, height = parse_size(size) if size is not None else (None, None)
    return width, height


def _stage(
    prompt: str, negative: str | None, guidance: float | None, guidance_rescale: float
) -> Stage:
    return Stage(
        prompt=prompt,
        negative_prompt=negative,
        guidance_scale=guidance,
        guidance_rescale=guidance_rescale,
    )


def _without_refiner(refined: Refined, refusals: Refusals) -> Refined:
    """Return that nothing is said of the refiner, and refuse the flags that did."""
    names = ("prompt", "negative", "guidance", "guidance-rescale")
    given = [
        f"--refiner-{name}" for name, value in zip(names, refined, strict=True) if value is not None
    ]
    if given:
        refusals.add("base_only", f"runs no refiner; leave out {', '.join(given)}")
    return None, None, None, None


def _refiner_stage(
    base: Stage,
    prompt: str | None,
    negative: str | None,
    guidance: float | None,
    guidance_rescale: float | None,
) -> Stage | None:
    """Return the refiner's stage, None when no flag speaks of it; open fields are the base's."""
    if (prompt, negative, guidance, guidance_rescale) == (None,) * 4:
        return None
    return _stage(
        base.prompt if prompt is None else prompt,
        base.negative_prompt if negative is None else negative,
        base.guidance_scale if guidance is None else guidance,
        base.guidance_rescale if guidance_rescale is None else guidance_rescale,
    )

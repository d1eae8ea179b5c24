"""``diptych generate``: prompts in, pictures or latents out."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from diptych.cli.embedded import connect
from diptych.cli.files import format_of
from diptych.cli.options import (
    GENERATE_FLAGS,
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
from diptych.cli.painting import Painted, follow, preview_saver, save, settings_of
from diptych.cli.report import Report, reporting
from diptych.clients.calls import GenerateCall, Stage

__all__ = ["generate", "tell"]

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
        chosen = format_of(output_format, out)
        width, height = parse_size(size) if size else (None, None)
        base_stage = Stage(
            prompt=prompt,
            negative_prompt=negative,
            guidance_scale=guidance,
            guidance_rescale=guidance_rescale,
        )
        call = GenerateCall(
            base=base_stage,
            refiner=_refiner_stage(
                base_stage,
                prompt=refiner_prompt,
                negative_prompt=refiner_negative,
                guidance_scale=refiner_guidance,
                guidance_rescale=refiner_guidance_rescale,
            ),
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
            output=chosen,
            quality=quality,
            preview_every=preview_every,
        )
        on_preview = preview_saver(out, chosen, report)
        with connect(report, server, base=base, refiner=refiner, token_file=token_file) as client:
            events = client.generate(call, timeout_s=timeout)
            painted = follow(events, report, on_preview=on_preview)
        files = save(painted, out, output_format=chosen, settings=settings_of(call))
        tell(report, painted, files)


def tell(report: Report, painted: Painted, files: list[dict[str, Any]]) -> None:
    """Say what was written, to a person or as the command's JSON object."""
    resolved, timings = painted.resolved, painted.timings
    for file in files:
        report.say(f"{escape(file['path'])}  [dim]seed {file['seed']}[/]")
    boundary = f", boundary {resolved.boundary}" if resolved.boundary else ""
    report.note(
        f"[dim]{resolved.width}x{resolved.height}, {resolved.num_steps} steps of "
        f"{resolved.solver}{boundary}; {timings.total_s:.2f} s[/]"
    )
    report.answer(
        {
            "request_id": resolved.request_id,
            "seed": resolved.seed,
            "num_images": resolved.num_images,
            "num_steps": resolved.num_steps,
            "width": resolved.width,
            "height": resolved.height,
            "solver": resolved.solver,
            "boundary": resolved.boundary,
            "files": files,
            "timings": {
                name: getattr(timings, name)
                for name in ("queue_s", "encode_s", "base_s", "refiner_s", "decode_s", "total_s")
            },
        }
    )


def _refiner_stage(
    base: Stage,
    *,
    prompt: str | None,
    negative_prompt: str | None,
    guidance_scale: float | None,
    guidance_rescale: float | None,
) -> Stage | None:
    """Return the refiner's stage, None when no flag speaks of it; open fields are the base's."""
    if (prompt, negative_prompt, guidance_scale, guidance_rescale) == (None,) * 4:
        return None
    return Stage(
        prompt=base.prompt if prompt is None else prompt,
        negative_prompt=base.negative_prompt if negative_prompt is None else negative_prompt,
        guidance_scale=base.guidance_scale if guidance_scale is None else guidance_scale,
        guidance_rescale=base.guidance_rescale if guidance_rescale is None else guidance_rescale,
    )

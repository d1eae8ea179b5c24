"""``diptych demo``: what the embedded pair paints, and what refiner and adapters add."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from PIL import Image
from rich.markup import escape

from diptych.cli.contact_sheet import contact_sheet
from diptych.cli.embedded import connect
from diptych.cli.files import write_whole
from diptych.cli.options import AsJson, Server
from diptych.cli.painting import Painted, follow, follow_many
from diptych.cli.report import reporting
from diptych.clients.calls import AdapterChoice, GenerateCall, Stage

__all__ = ["ADAPTED", "PROMPTS", "demo"]

PROMPTS: Final = (
    "a large red heart in the center on a dotted cream background",
    "a large yellow star in the top right corner on a plain black background",
    "a large blue ring on the left on a wavy sky background",
    "a small green triangle at the bottom on a striped white background",
    "a large purple star in the center on a checkered mint background",
    "a small orange circle at the top on a plain pink background",
    "a large red square on the right on a dotted gray background",
    "a small blue heart in the bottom left corner on a striped cream background",
)
"""The contact sheet's; the first is the picture."""

ADAPTED: Final = tuple(
    (prompt.format(subject), adapters)
    for prompt, shape in (
        ("a large yellow {} in the center on a striped pink background", "heart"),
        ("a large orange {} on the right on a wavy pink background", "ring"),
    )
    for subject, adapters in (
        (shape, ()),
        (shape, ("night",)),
        ("<moon>", ("moon",)),
        ("<moon>", ("moon", "night")),
    )
)
"""Prompts and the adapters that paint them, all in one batch."""

STEPS: Final = 30
BOUNDARY: Final = 0.65
SEED: Final = 7
GUIDANCE: Final = 2.0


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pictures.")] = Path(
        "demo"
    ),
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Paint one picture, the same without its refiner, eight at once, and with adapters."""
    with reporting(as_json=as_json) as report:
        files = {
            "picture": out / "picture.png",
            "without_refiner": out / "without-refiner.png",
            "contact_sheet": out / "contact-sheet.png",
            "adapters": out / "adapters.png",
        }
        with connect(report, server) as client:
            report.say(f'painting [bold]"{escape(PROMPTS[0])}"[/] over gRPC')
            picture = follow(client.generate(_call(PROMPTS[0], SEED)), report)
            half = follow(client.generate(_call(PROMPTS[0], SEED, base_only=True)), report)
            calls = [
                partial(client.generate, _call(prompt, SEED + index))
                for index, prompt in enumerate(PROMPTS)
            ]
            many = follow_many(calls, report, at_once=len(calls), label="eight at once")
            adapted = follow_many(
                [partial(client.generate, _adapted_call(*each)) for each in ADAPTED],
                report,
                at_once=len(ADAPTED),
                label="unlike adapters in one batch",
            )
        write_whole(files["picture"], picture.pictures[0].data)
        write_whole(files["without_refiner"], half.pictures[0].data)
        write_whole(files["contact_sheet"], _sheet(many, PROMPTS))
        write_whole(files["adapters"], _sheet(adapted, [_caption(*each) for each in ADAPTED]))
        report.say(f"{escape(str(files['picture']))}  [dim]{picture.timings.total_s:.2f} s[/]")
        report.say(
            f"{escape(str(files['without_refiner']))}  "
            f"[dim]the same latents at {BOUNDARY:.0%} of the schedule, decoded as they are[/]"
        )
        report.say(f"{escape(str(files['contact_sheet']))}  [dim]eight calls, one batch[/]")
        report.say(
            f"{escape(str(files['adapters']))}  [dim]a style, a learned token, both, neither[/]"
        )
        report.answer(
            {
                "files": {name: str(path) for name, path in files.items()},
                "seconds": picture.timings.total_s,
            }
        )


def _call(prompt: str, seed: int, *, base_only: bool = False) -> GenerateCall:
    """Return a call for one picture; with ``base_only`` it stops at the boundary."""
    return GenerateCall(
        base=Stage(prompt=prompt, guidance_scale=GUIDANCE),
        base_only=base_only,
        boundary=BOUNDARY,
        num_steps=STEPS,
        seed=seed,
        output="png",
    )


def _adapted_call(prompt: str, adapters: Sequence[str]) -> GenerateCall:
    """Return a call that paints with adapters."""
    choices = tuple(AdapterChoice(adapter=name) for name in adapters)
    return replace(_call(prompt, SEED), adapters=choices)


def _caption(prompt: str, adapters: Sequence[str]) -> str:
    return f"{prompt} [{' + '.join(adapters) or 'no adapter'}]"


def _sheet(many: list[Painted], captions: Sequence[str]) -> bytes:
    """Return the contact sheet as PNG."""
    pictures = [Image.open(io.BytesIO(painted.pictures[0].data)) for painted in many]
    data = io.BytesIO()
    contact_sheet(pictures, captions).save(data, "PNG", optimize=True)
    return data.getvalue()

"""``diptych nano``: train the embedded pair and its adapters, and judge what it paints."""

import io
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from PIL import Image
from rich.table import Table

from diptych.cli.contact_sheet import contact_sheet
from diptych.cli.embedded import connect, need_extra
from diptych.cli.files import write_whole
from diptych.cli.options import AsJson
from diptych.cli.painting import Painted, follow_many
from diptych.cli.report import Report, reporting
from diptych.clients.calls import AdapterChoice, GenerateCall, Stage
from diptych.errors import FieldViolation, InvalidRequest
from diptych.inference.settings import load_settings
from diptych.models.trained_experts import PREFIX, find_expert
from diptych.nano.lessons import under_stars
from diptych.nano.pair import ADAPTERS, expert_path
from diptych.nano.pictures import NUM_WHOLE_CAPTIONS, STYLES, draw_examples
from diptych.nano.scenes import Scene, caption, held_out_scenes
from diptych.nano.scorer import Score, score

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The embedded pair: train it, judge it.")

AT_ONCE: Final = 16
SHEET_PICTURES: Final = 32
ATTRIBUTES: Final = ("shape", "colour", "place", "joint", "background", "texture", "size")
KEPT: Final = ("shape", "colour", "place", "size")
"""What a style leaves as it was."""


@app.command("build")
def build_pair(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the three checkpoints.")],
    *,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    unet_steps: Annotated[int | None, typer.Option("--unet-steps", min=1)] = None,
    base_steps: Annotated[int | None, typer.Option("--base-steps", min=1)] = None,
    refiner_steps: Annotated[int | None, typer.Option("--refiner-steps", min=1)] = None,
    vae_steps: Annotated[int | None, typer.Option("--vae-steps", min=1)] = None,
    num_scenes: Annotated[int | None, typer.Option("--num-scenes", min=64)] = None,
) -> None:
    """Train the pair on procedurally drawn scenes; one to three hours on two cores.

    A build that was stopped goes on from its last finished phase when it is started again.
    """
    with reporting(as_json=False) as report:
        need_extra("training the nano pair")
        from diptych.nano.build import BuildConfig, build

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        given = {
            "unet_steps": unet_steps,
            "base_steps": base_steps,
            "refiner_steps": refiner_steps,
            "vae_steps": vae_steps,
            "num_scenes": num_scenes,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        build(BuildConfig(out=out, seed=seed, device=device, **chosen))
        report.say(f"{out}")


@app.command("teach")
def teach_adapter(
    name: Annotated[str, typer.Argument(help=f"What to teach: {', '.join(ADAPTERS)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the adapter's bundle.")],
    *,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    base_steps: Annotated[int | None, typer.Option("--base-steps", min=1)] = None,
    refiner_steps: Annotated[int | None, typer.Option("--refiner-steps", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Teach the pair a demo adapter with peft and diffusers; some ten minutes on two cores."""
    with reporting(as_json=as_json) as report:
        if name not in ADAPTERS:
            description = f"{name!r} is none of {', '.join(ADAPTERS)}"
            raise InvalidRequest([FieldViolation(field="name", description=description)])
        need_extra("teaching an adapter")
        need_extra("teaching an adapter", extra="bench", modules=("peft",))
        from diptych.nano.adapters import LessonConfig, teach

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        given = {"base_steps": base_steps, "refiner_steps": refiner_steps}
        chosen = {key: value for key, value in given.items() if value is not None}
        path = teach(name, LessonConfig(out=out, seed=seed, **chosen))
        report.say(f"{path}")
        report.answer({"file": str(path)})


@app.command("pictures")
def draw_pictures(
    style: Annotated[str, typer.Argument(help=f"How they look: {', '.join(STYLES)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder, made where it is not there.")],
    *,
    count: Annotated[int, typer.Option("--count", min=1, max=100_000)] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw pictures to train on, four captions beside each; none is of a held-out scene."""
    with reporting(as_json=as_json) as report:
        if style not in STYLES:
            description = f"{style!r} is none of {', '.join(STYLES)}"
            raise InvalidRequest([FieldViolation(field="style", description=description)])
        out.mkdir(parents=True, exist_ok=True)
        chosen = STYLES[STYLES.index(style)]
        examples = draw_examples(chosen, count=count, seed=seed, num_phrasings=NUM_WHOLE_CAPTIONS)
        for number, example in enumerate(examples):
            data = io.BytesIO()
            example.picture.save(data, "PNG")
            write_whole(out / f"{number:05}.png", data.getvalue())
            write_whole(out / f"{number:05}.txt", example.text.encode())
        report.say(f"{count} pictures in {out}")
        report.answer({"folder": str(out), "count": count})


@app.command("score")
def score_pair(
    *,
    count: Annotated[int, typer.Option("--count", min=1, help="Held-out prompts.")] = 256,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 30,
    guidance: Annotated[float, typer.Option("--guidance")] = 2.0,
    boundary: Annotated[float, typer.Option("--boundary")] = 0.65,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="<path>",
            help="Folder that `nano build` wrote, or experts/NAME of a job of two experts; the "
            "shipped pair otherwise.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write some of the pictures to this PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Paint held-out prompts and judge shape, colour and place by looking at the pixels.

    The pair is compared with the single model it was fine-tuned from, at equal steps.
    """
    with reporting(as_json=as_json) as report:
        scenes = held_out_scenes(count)
        base, refiner, parent = _pair_folders(weights)
        single = _paint(report, parent, None, scenes, steps, guidance, None)
        pair = _paint(report, base, refiner, scenes, steps, guidance, boundary)
        scores = {"base-single": score(single, scenes), "pair": score(pair, scenes)}
        psnr_db = _reconstruction(report, base, scenes)
        if sheet is not None:
            _write_sheet(sheet, pair, scenes)
        if not as_json:
            report.out.print(_table(scores))
        report.say(f"autoencoder: {psnr_db:.1f} dB PSNR")
        report.answer(
            {
                "steps": steps,
                "guidance_scale": guidance,
                "boundary": boundary,
                "reconstruction_psnr_db": psnr_db,
                "scores": {name: asdict(found) for name, found in scores.items()},
            }
        )


@app.command("score-adapter")
def score_adapter(
    adapter: Annotated[str, typer.Argument(metavar="NAME", help="Of this folder's adapters.")],
    *,
    style: Annotated[
        str, typer.Option("--style", metavar=f"<str: {', '.join(STYLES)}>", help="That it learnt.")
    ] = "night",
    count: Annotated[int, typer.Option("--count", min=1, help="Held-out prompts.")] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 30,
    guidance: Annotated[float, typer.Option("--guidance")] = 2.0,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write some of the pictures to this PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Paint held-out prompts with the pair, without an adapter and with it, and judge both.

    Background and texture say how much of the style is there; shape, colour, place and size how
    much of what the pair could do before is kept. ``pair, told`` is the pair without the adapter,
    asked for the style in words: objects as good as those are all that a style can keep.
    """
    with reporting(as_json=as_json) as report:
        if style not in STYLES:
            problem = f"no style {style!r:.80}, there are {', '.join(STYLES)}"
            raise InvalidRequest([FieldViolation(field="--style", description=problem)])
        scenes = held_out_scenes(count)
        shown = [under_stars(scene) for scene in scenes] if style == "night" else scenes
        base = refiner = "nano"
        choices = (AdapterChoice(adapter=adapter),)
        plain = _paint(report, base, refiner, scenes, steps, guidance, 0.65)
        styled = _paint(report, base, refiner, scenes, steps, guidance, 0.65, choices)
        told = _paint(report, base, refiner, shown, steps, guidance, 0.65)
        scores = {
            "pair": score(plain, scenes),
            "pair, told": score(told, shown),
            adapter: score(styled, shown),
        }
        kept = {
            name: getattr(scores[adapter], name) / max(getattr(scores["pair"], name), 1e-9)
            for name in KEPT
        }
        if sheet is not None:
            _write_sheet(sheet, styled, scenes)
        if not as_json:
            report.out.print(_table(scores))
        report.say("kept: " + ", ".join(f"{name} {share:.1%}" for name, share in kept.items()))
        answer = {"scores": {name: asdict(found) for name, found in scores.items()}, "kept": kept}
        report.answer(answer)


def _pair_folders(weights: str | None) -> tuple[Path, Path, Path]:
    """Return where base, refiner and the model they began with lie.

    Raises:
        ModelNotFound: A job's experts are not there.
    """
    if weights is None or not weights.startswith(PREFIX):
        folder = expert_path("base").parent if weights is None else Path(weights)
        return folder / "base", folder / "refiner", folder / "base-single"
    experts, name = load_settings().home / "experts", weights.removeprefix(PREFIX)
    base, refiner = (find_expert(experts, f"{name}/{stage}") for stage in ("base", "refiner"))
    return base, refiner, expert_path("base-single")


def _paint(
    report: Report,
    base: Path | str,
    refiner: Path | str | None,
    scenes: list[Scene],
    steps: int,
    guidance: float,
    boundary: float | None,
    adapters: Sequence[AdapterChoice] = (),
) -> list[Image.Image]:
    """Return one picture per scene; scene i has seed i."""
    with connect(report, None, base=str(base), refiner=str(refiner or "none")) as client:
        calls = [
            partial(
                client.generate,
                GenerateCall(
                    base=Stage(prompt=caption(scene), guidance_scale=guidance),
                    base_only=refiner is None,
                    boundary=boundary,
                    num_steps=steps,
                    seed=index,
                    output="png",
                    adapters=adapters,
                ),
            )
            for index, scene in enumerate(scenes)
        ]
        painted = follow_many(calls, report, at_once=AT_ONCE, label=Path(base).name)
    return [_picture(one) for one in painted]


def _reconstruction(report: Report, folder: Path, scenes: list[Scene]) -> float:
    from diptych.nano.reconstruction import reconstruction_psnr

    with report.waiting("measuring the autoencoder"):
        return reconstruction_psnr(folder, scenes)


def _picture(painted: Painted) -> Image.Image:
    return Image.open(io.BytesIO(painted.pictures[0].data)).convert("RGB")


def _write_sheet(path: Path, pictures: list[Image.Image], scenes: list[Scene]) -> None:
    captions = [caption(scene) for scene in scenes[:SHEET_PICTURES]]
    data = io.BytesIO()
    contact_sheet(pictures[:SHEET_PICTURES], captions, columns=8).save(data, "PNG")
    write_whole(path, data.getvalue())


def _table(scores: dict[str, Score]) -> Table:
    table = Table("", *ATTRIBUTES, box=None, pad_edge=False)
    for name, found in scores.items():
        table.add_row(name, *(f"{getattr(found, one):.1%}" for one in ATTRIBUTES))
    return table

"""``diptych models``: what can be hosted, where it lies, and how it gets here."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from diptych.cli.models_merge import merge_models
from diptych.cli.options import AsJson
from diptych.cli.report import reporting
from diptych.errors import ExtraMissing, ModelNotFound
from diptych.home_paths import at_home
from diptych.inference.settings import load_settings
from diptych.models.trained_experts import PREFIX, find_expert
from diptych.nano.pair import EXPERTS, expert_path, pair_path

__all__ = ["KNOWN_MODELS", "app"]

app = typer.Typer(no_args_is_help=True, help="What can be hosted, and where it lies.")

KNOWN_MODELS: tuple[tuple[str, str, str], ...] = (
    ("nano", "base + refiner", "embedded, 128x128; nothing to fetch"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "base", "SDXL base 1.0"),
    ("stabilityai/stable-diffusion-xl-refiner-1.0", "refiner", "SDXL refiner 1.0"),
    ("segmind/SSD-1B", "base", "SSD-1B, half the size"),
    ("segmind/Segmind-Vega", "base", "Segmind-Vega, a third of the size"),
    ("playgroundai/playground-v2.5-1024px-aesthetic", "base", "Playground v2.5 (EDM)"),
    ("stabilityai/sdxl-turbo", "base", "SDXL Turbo, 1 to 4 steps, no guidance"),
)
"""Source, experts it can be, and what it is; any other checkpoint of these families works too."""

Source = Annotated[
    str,
    typer.Argument(
        help="nano, nano/base, experts/NAME, a folder, a file, a Hugging Face id, or s3://."
    ),
]


@app.command("list")
def list_models(*, as_json: AsJson = False) -> None:
    """List the models Diptych knows by name, and which of them are here."""
    with reporting(as_json=as_json) as report:
        rows = [
            {"source": source, "expert": expert, "about": about, "path": _path_or_none(source)}
            for source, expert, about in KNOWN_MODELS
        ]
        table = Table("source", "expert", "what", "here", box=None, pad_edge=False)
        for row in rows:
            here = "[green]yes[/]" if row["path"] else "[dim]no[/]"
            table.add_row(row["source"], row["expert"], row["about"], here)
        if not as_json:
            report.out.print(table)
        report.answer({"models": rows})


@app.command("path")
def show_path(source: Source, *, as_json: AsJson = False) -> None:
    """Print the folder or file that holds a model on this machine; fetches nothing."""
    with reporting(as_json=as_json) as report:
        path = _local_path(source)
        report.say(escape(str(path)))
        report.answer({"source": source, "path": str(path)})


@app.command("pull")
def pull(source: Source, *, as_json: AsJson = False) -> None:
    """Fetch a model to this machine and print where it lies; its files are checked, not loaded."""
    with reporting(as_json=as_json) as report:
        if source.split("/")[0] == "nano" and not Path(source).exists():
            path = _local_path(source)
        else:
            path = _fetch(source)
        report.say(escape(str(path)))
        report.answer({"source": source, "path": str(path)})


app.command("merge")(merge_models)


def _fetch(source: str) -> Path:
    for needed in ("huggingface_hub", "boto3", "torch"):
        if find_spec(needed) is None:
            raise ExtraMissing(extra="inference", needed_for="fetching models")
    from diptych.models.checkpoint import SourceConfig, locate, open_checkpoint

    config = SourceConfig(cache_dir=cache_folder(), experts_dir=load_settings().home / "experts")
    path = locate(source, config)
    open_checkpoint(str(path), config)
    return path


def cache_folder() -> Path:
    """Return the folder that fetched models are kept in."""
    return load_settings().home / "models"


def _path_or_none(source: str) -> str | None:
    try:
        return str(_local_path(source))
    except ModelNotFound:
        return None


def _local_path(source: str) -> Path:
    """Return where a model lies.

    Raises:
        ModelNotFound: It is not on this machine.
    """
    if source == "nano":
        return pair_path()
    if source.removeprefix("nano/") in EXPERTS:
        return expert_path(source.removeprefix("nano/"))
    if source.startswith(PREFIX):
        return find_expert(load_settings().home / "experts", source.removeprefix(PREFIX))
    path = at_home(source)
    if path.exists():
        return path.resolve()
    repository = cache_folder() / "hub" / f"models--{source.replace('/', '--')}"
    reference = repository / "refs" / "main"
    if "/" in source and "://" not in source and reference.is_file():
        return repository / "snapshots" / reference.read_text().strip()
    raise ModelNotFound(source, "not on this machine; `diptych models pull` fetches it")

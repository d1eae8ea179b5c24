"""The ``diptych`` command: its commands, and what stands above them."""

import logging
from typing import Annotated

import typer

from diptych import __version__
from diptych.cli import adapters, bench, cache, dataset, models, nano, serve, train
from diptych.cli.cache_warm import warm
from diptych.cli.demo import demo
from diptych.cli.generate import generate
from diptych.cli.refine import refine
from diptych.inference.allocator import set_heap_up

__all__ = ["app", "main"]

app = typer.Typer(
    name="diptych",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"diptych {__version__}")
        raise typer.Exit


@app.callback()
def diptych(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Two networks, one picture: SDXL-family pictures by a base expert and a refiner."""
    del version


_PAINT, _SERVE, _TRAIN, _MODELS = "Paint", "Serve", "Train", "Models and measurements"
app.command("generate", rich_help_panel=_PAINT)(generate)
app.command("refine", rich_help_panel=_PAINT)(refine)
app.command("demo", rich_help_panel=_PAINT)(demo)
app.command("up", rich_help_panel=_SERVE)(serve.up)
app.add_typer(serve.app, name="serve", rich_help_panel=_SERVE)
app.add_typer(train.app, name="train", rich_help_panel=_TRAIN)
app.add_typer(adapters.app, name="adapters", rich_help_panel=_MODELS)
cache.app.command("warm")(warm)
app.add_typer(cache.app, name="cache", rich_help_panel=_MODELS)
app.add_typer(models.app, name="models", rich_help_panel=_MODELS)
app.add_typer(dataset.app, name="dataset", rich_help_panel=_MODELS)
app.add_typer(nano.app, name="nano", rich_help_panel=_MODELS)
app.add_typer(bench.app, name="bench", rich_help_panel=_MODELS)


def main() -> None:
    """Run the command that ``sys.argv`` names, in a process that is its own."""
    set_heap_up()
    # diffusers brings it in, and it tells what weights of 4 bits, which none here are, would miss.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    app()

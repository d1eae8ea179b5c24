"""``diptych bench``: measure against what one would use instead, in one run."""

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure against diffusers, in one run.")

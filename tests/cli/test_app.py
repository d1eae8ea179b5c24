"""The command as a whole: it helps, tells its version, and starts without torch."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from diptych import __version__
from diptych.cli.app import app

COMMANDS = {"generate", "refine", "demo", "up", "serve", "models", "nano", "bench"}
GENERATE_FLAGS = (
    "--negative --refiner-prompt --refiner-negative --steps --boundary --guidance "
    "--refiner-guidance --guidance-rescale --refiner-guidance-rescale --solver --seed "
    "--num-images --size --format --preview-every --solver-history --base-only --json --out "
    "--server"
).split()


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def test_help_names_every_command(runner: CliRunner) -> None:
    result = runner.invoke(app, ["--help"])
    assert {word for word in COMMANDS if f" {word} " in result.stdout} == COMMANDS


def commands(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below one, itself first, and the words that call it."""
    yield path, found
    for name, below in getattr(found, "commands", {}).items():
        yield from commands(below, (*path, name))


EVERY_COMMAND = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=" ".join)
def test_every_command_helps_and_says_all_of_its_words(
    path: tuple[str, ...], runner: CliRunner
) -> None:
    assert runner.invoke(app, [*path, "--help"]).exit_code == 0
    for parameter in EVERY_COMMAND[path].params:
        help_text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(help_text).plain == help_text.replace("\\[", "[")


def test_version_is_the_package_version(runner: CliRunner) -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"diptych {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["generate"],
        ["refine"],
        ["demo"],
        ["up"],
        ["serve", "inference"],
        ["models", "list"],
        ["models", "path"],
        ["models", "pull"],
        ["nano", "build"],
        ["nano", "score"],
        ["bench", "inference"],
    ],
    ids=" ".join,
)
def test_command_explains_itself(runner: CliRunner, command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert (result.exit_code, "Usage:" in result.stdout) == (0, True)


def test_generate_has_every_promised_flag(runner: CliRunner) -> None:
    text = runner.invoke(app, ["generate", "--help"]).stdout
    assert [flag for flag in GENERATE_FLAGS if flag not in text] == []


def test_unknown_flag_exits_with_2(runner: CliRunner) -> None:
    assert runner.invoke(app, ["generate", "a heart", "--stepz", "3"]).exit_code == 2


def test_starting_the_command_imports_no_heavy_package() -> None:
    program = (
        "import sys; import diptych.cli.app; "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'boto3', 'scipy')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr

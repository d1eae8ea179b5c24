"""One embedded server for all tests of commands that paint."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from diptych.cli.app import app
from diptych.cli.embedded import embedded_settings
from diptych.inference.server import BackgroundServer

__all__ = ["invoke", "invoke_json", "server"]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Yield ``host:port`` of the real service on the nano pair."""
    running = BackgroundServer(embedded_settings(base=None, refiner=None))
    running.start(timeout_s=110.0)
    yield running.address
    running.stop()


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Return what runs a command as typed."""
    runner = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"})

    def run(*arguments: object, columns: int = 200) -> Result:
        words = [str(argument) for argument in arguments]
        return runner.invoke(app, words, env={"COLUMNS": str(columns)})

    return run


@pytest.fixture
def invoke_json(invoke: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """Return what runs a command with --json and reads its one object."""

    def run(*arguments: object) -> dict[str, Any]:
        result = invoke(*arguments, "--json")
        assert result.exit_code == 0, result.output
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    return run

"""A server process starts, says it is ready, drains on SIGTERM and refuses bad settings."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.clients.calls import GenerateCall, Stage
from diptych.clients.inference import ClientConfig, InferenceClient
from diptych.rpc.channel import ChannelConfig

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "services"
PATIENCE_S = 400.0
"""Importing torch takes minutes on a machine that is busy with other things."""
QUICK_S = 20.0
"""For what imports no torch: a second where nothing else runs."""
PROMPT_S = 5.0
"""For a process that has nothing to finish: a fraction of a second where nothing else runs."""

pytestmark = [pytest.mark.system, pytest.mark.timeout(2 * PATIENCE_S)]

FREE = ("--port", "0", "--metrics-port", "0")


def spawn(home: Path, *flags: str, module: str = "diptych.inference") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": f"{SOURCE}:{TESTS}",
            "DIPTYCH_HOME": str(home),
            "OMP_NUM_THREADS": "1",
        },
    )


@contextlib.contextmanager
def stuck(home: Path, where: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a server that gets stuck in ``where``."""
    process = spawn(home, where, module="support.stuck_server")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def log_line(process: "subprocess.Popen[str]", message: str) -> dict[str, object]:
    """Return the first log line that says ``message``."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        found: dict[str, object] = json.loads(line) if line.startswith("{") else {}
        if found.get("message") == message:
            return found
    pytest.fail(f"never said {message}: {''.join(said)}")


@pytest.fixture
def process(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = spawn(tmp_path, *FREE)
    yield process
    process.kill()
    process.communicate()


def test_process_paints_then_drains_and_exits_well(process: "subprocess.Popen[str]") -> None:
    port = log_line(process, "ready")["port"]
    config = ClientConfig(channel=ChannelConfig(address=f"127.0.0.1:{port}"), timeout_s=PATIENCE_S)
    with InferenceClient(config) as client:
        call = GenerateCall(base=Stage(prompt="a red circle"), num_steps=2, seed=1)
        assert len(client.generate_images(call)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_that_is_told_to_stop_while_it_loads_ends_well_at_once(
    number: signal.Signals, tmp_path: Path
) -> None:
    with stuck(tmp_path, "load") as process:
        log_line(process, "loading")
        process.send_signal(number)
        assert process.wait(timeout=PROMPT_S) == 0


def test_process_that_imports_torch_ends_well_when_told_to_stop(tmp_path: Path) -> None:
    process = spawn(tmp_path, *FREE)
    log_line(process, "loading")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=QUICK_S)
    assert (process.returncode, "Traceback" in said) == (0, False), said


def test_second_signal_ends_a_process_that_drains_at_once(tmp_path: Path) -> None:
    with stuck(tmp_path, "drain") as process:
        log_line(process, "ready")
        process.send_signal(signal.SIGTERM)
        log_line(process, "draining")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PROMPT_S) == 130


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--port", "70000"), "inference.port"),
        (("--device", "abacus"), "no device 'abacus'"),
        (("--base", "none", "--refiner", "none"), "neither base nor refiner"),
    ],
)
def test_bad_settings_end_the_process_with_their_names_before_anything_loads(
    flags: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    process = spawn(tmp_path, *FREE, *flags)
    _, said = process.communicate(timeout=QUICK_S)
    assert (process.returncode, message in said) == (64, True)

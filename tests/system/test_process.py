"""A server process starts, says it is ready, drains on SIGTERM and refuses bad settings."""

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

SOURCE = Path(__file__).parents[2] / "services"
PATIENCE_S = 400.0
"""Importing torch takes minutes on a machine that is busy with other things."""
QUICK_S = 20.0
"""For what imports no torch: a second where nothing else runs."""

pytestmark = [pytest.mark.system, pytest.mark.timeout(2 * PATIENCE_S)]

FREE = ("--port", "0", "--metrics-port", "0")


def spawn(home: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "diptych.inference", *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(SOURCE), "DIPTYCH_HOME": str(home)},
    )


def ready_line(process: "subprocess.Popen[str]") -> dict[str, object]:
    """Return the log line that says where the server listens."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        found: dict[str, object] = json.loads(line) if line.startswith("{") else {}
        if found.get("message") == "ready":
            return found
    pytest.fail(f"never ready: {''.join(said)}")


@pytest.fixture
def process(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = spawn(tmp_path, *FREE)
    yield process
    process.kill()
    process.communicate()


def test_process_paints_then_drains_and_exits_well(process: "subprocess.Popen[str]") -> None:
    port = ready_line(process)["port"]
    config = ClientConfig(channel=ChannelConfig(address=f"127.0.0.1:{port}"), timeout_s=PATIENCE_S)
    with InferenceClient(config) as client:
        call = GenerateCall(base=Stage(prompt="a red circle"), num_steps=2, seed=1)
        assert len(client.generate_images(call)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0


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

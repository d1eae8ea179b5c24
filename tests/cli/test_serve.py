"""``diptych serve`` and ``diptych up`` run the service until they are told to stop."""

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from typer.testing import Result

from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import PromptsCall
from diptych.clients.inference import ClientConfig, InferenceClient
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobCall
from diptych.errors import JobInvalid
from diptych.rpc.channel import ChannelConfig

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Take back what a server inside the test did to the process's logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--port", "70000"), "port"),
        (("--device", "toaster"), "device"),
        (("--dtype", "int3"), "dtype"),
        (("--base", "none", "--refiner", "none"), "base"),
    ],
)
def test_bad_settings_end_with_one_line(invoke: Invoke, flags: tuple[str, ...], named: str) -> None:
    common = ("--port", "0", "--metrics-port", "0")
    result = invoke("serve", "inference", *common, *flags)
    assert (result.exit_code, named in result.stderr) == (2, True), result.stderr
    assert "Traceback" not in result.output


def test_absent_preview_decoder_is_named(invoke: Invoke) -> None:
    ports = ("--port", "0", "--metrics-port", "0")
    result = invoke("serve", "inference", *ports, "--preview-decoder", "/absent")
    assert (result.exit_code, "model '/absent'" in result.stderr) == (1, True), result.stderr


def test_unknown_key_of_the_file_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("inference:\n  potr: 1\n")
    result = invoke("serve", "inference", "--config", tmp_path / "settings.yaml")
    assert (result.exit_code, "inference.potr" in result.stderr) == (2, True)


def take_free_ports(monkeypatch: pytest.MonkeyPatch, *, but: str) -> None:
    """Let every service take free ports, but for the one that a flag sets."""
    for service, kind in product(("INFERENCE", "CACHE", "TRAINING"), ("PORT", "METRICS_PORT")):
        if f"{service}_{kind}" != but:
            monkeypatch.setenv(f"DIPTYCH_{service}_{kind}", "0")


@pytest.fixture(params=[("up",), ("serve", "inference")], ids=" ".join)
def process(
    request: pytest.FixtureRequest,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the command, running on ``free_port``."""
    take_free_ports(monkeypatch, but="INFERENCE_PORT")
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path))
    program = [sys.executable, "-m", "diptych.cli", *request.param, "--port", str(free_port)]
    with subprocess.Popen(program, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


def test_command_serves_until_sigterm(process: subprocess.Popen[bytes], free_port: int) -> None:
    config = ClientConfig(channel=ChannelConfig(address=f"127.0.0.1:{free_port}"))
    with InferenceClient(config) as client:
        client.wait_until_ready(timeout_s=100.0)
        assert client.get_capabilities().version
    process.send_signal(signal.SIGTERM)
    assert process.wait(60.0) == 0


@pytest.fixture(params=[("up", "--cache-port"), ("serve", "embedding-cache", "--port")])
def caching(
    request: pytest.FixtureRequest,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a command that runs the embedding cache on ``free_port``."""
    take_free_ports(monkeypatch, but="CACHE_PORT")
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path))
    program = [sys.executable, "-m", "diptych.cli", *request.param, str(free_port)]
    with subprocess.Popen(program, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


def test_cache_serves_until_sigterm(caching: subprocess.Popen[bytes], free_port: int) -> None:
    config = ClientConfig(channel=ChannelConfig(address=f"127.0.0.1:{free_port}"))
    with EmbeddingCacheClient(config) as client:
        client.wait_until_ready(timeout_s=100.0)
        assert client.encode_prompts(PromptsCall(prompts=["a"]))[0].source == "encoded"
    caching.send_signal(signal.SIGTERM)
    assert caching.wait(60.0) == 0


@pytest.fixture(params=[("up", "--training-port"), ("serve", "training", "--port")])
def training(
    request: pytest.FixtureRequest,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a command that runs training on ``free_port``, with images in a folder ``data``."""
    take_free_ports(monkeypatch, but="TRAINING_PORT")
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path / "home"))
    (tmp_path / "data" / "here").mkdir(parents=True)
    program = [sys.executable, "-m", "diptych.cli", *request.param, str(free_port)]
    flags = ["--data", str(tmp_path / "data")]
    with subprocess.Popen([*program, *flags], stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


def test_training_takes_jobs_until_sigterm(
    training: subprocess.Popen[bytes], free_port: int
) -> None:
    config = ClientConfig(channel=ChannelConfig(address=f"127.0.0.1:{free_port}"))
    sources = "dataset: {datasets: [{id: a, source: {type: folder, path: {path}}}]}"
    texts = [
        "name: a\nrun: {num_steps: 1}\n" + sources.replace("{path}", path)
        for path in ("here", "/elsewhere")
    ]
    with TrainingClient(config) as client:
        client.wait_until_ready(timeout_s=100.0)
        assert client.create(JobCall(spec=texts[0]), dry_run=True).estimate.num_steps == 1
        with pytest.raises(JobInvalid, match="outside the folders"):
            client.create(JobCall(spec=texts[1]), dry_run=True)
    training.send_signal(signal.SIGTERM)
    assert training.wait(60.0) == 0


def test_a_ledger_that_is_none_is_told_in_one_line(invoke: Invoke) -> None:
    ports = ("--port", "0", "--metrics-port", "0")
    result = invoke("serve", "training", *ports, "--ledger", "nonsense")
    assert (result.exit_code, "ledger_url" in result.stderr) == (2, True), result.output
    assert "Traceback" not in result.output


def test_every_port_of_up_has_a_switch(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So two can run on one machine; one that is taken is told."""
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path))
    switches = ("--metrics-port", "--cache-metrics-port", "--training-metrics-port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for switch in switches:
            ports = dict.fromkeys(("--port", "--cache-port", "--training-port", *switches), 0)
            flags = [word for flag in (ports | {switch: port}).items() for word in flag]
            result = invoke("up", *flags)
            assert (result.exit_code, str(port) in result.stderr) == (2, True), result.stderr

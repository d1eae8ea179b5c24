"""Fixtures that every test may use; what only one area needs lives in that area's conftest."""

import contextlib
import os
import secrets
import socket
from pathlib import Path

import pytest
import torch

from diptych.nano.pair import pair_path

__all__ = ["free_port", "isolated_home", "nano_pair"]

if not torch.cuda.is_available():
    # Triton decides when it is imported whether its own interpreter runs its kernels.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep state that a test makes, and every user's settings, out of each other's way."""
    home = tmp_path / "diptych-home"
    monkeypatch.setenv("DIPTYCH_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def nano_pair() -> Path:
    """Return the folder that holds the embedded pair: ``base/`` and ``refiner/``."""
    return pair_path()


@pytest.fixture
def free_port() -> int:
    """Return a loopback port that was free a moment ago; prefer binding to port 0.

    It lies below those that systems give out themselves, so no other process gets it meanwhile.
    """
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

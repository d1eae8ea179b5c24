"""An owner of jobs is a process; what it does is seen in ``system/test_training_faults``."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from diptych.bench import fault_owner


def test_owner_that_cannot_open_its_ledger_ends(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("{training: {ledger_url: 'nonsense://'}}")
    command = [sys.executable, "-m", "diptych.bench.fault_owner", str(config), "stand-in"]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    ended = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert ended.returncode != 0
    assert b"ledger_url" in ended.stderr


def test_worker_that_it_starts_is_there() -> None:
    assert find_spec(fault_owner.WORKER) is not None

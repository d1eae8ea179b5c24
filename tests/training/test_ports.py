"""What the control plane asks for is what the ledger and the launcher have."""

import inspect

import pytest

from diptych.training.launchers.local import LocalLauncher, LocalProcess
from diptych.training.ledger.ledger import Ledger
from diptych.training.ports import Claims, Jobs, Launcher, Running


def methods(port: type) -> set[str]:
    return {name for name, value in vars(port).items() if inspect.isfunction(value)} - {
        "__init__",
        "__subclasshook__",
    }


@pytest.mark.parametrize(
    ("port", "made"),
    [(Claims, Ledger), (Jobs, Ledger), (Launcher, LocalLauncher), (Running, LocalProcess)],
)
def test_every_method_takes_what_its_port_says(port: type, made: type) -> None:
    for name in methods(port):
        asked = inspect.signature(getattr(port, name)).parameters
        taken = inspect.signature(getattr(made, name)).parameters
        assert list(asked) == list(taken)

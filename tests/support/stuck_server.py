"""A server process that gets stuck where it is told to: ``load`` or ``drain``, for a minute."""

import sys
import threading

from typing_extensions import override

from diptych.inference.hosted import Hosted
from diptych.inference.limits import Limits
from diptych.inference.server import Loaded, run_server
from diptych.inference.settings import InferenceSettings, Settings
from support.catalogs import FakeCatalog
from support.engines import FakeEngine

STUCK_S = 60.0


class StuckEngine(FakeEngine):
    """Does not end by itself."""

    @override
    def drain(self, grace_s: float) -> None:
        """Take a minute over it."""
        threading.Event().wait(STUCK_S)


def hosted() -> Hosted:
    """Return a server that hosts nothing."""
    return Hosted(
        version="0.0.0",
        base=None,
        refiner=None,
        refinable_families=frozenset(),
        solvers=(),
        spacings=(),
        sigma_schedules=(),
        limits=Limits(),
        width=128,
        height=128,
        num_steps=1,
        solver="euler",
    )


def load(*_: object) -> Loaded:
    """Load nothing, for a minute if that is where to be stuck."""
    if sys.argv[1] == "load":
        threading.Event().wait(STUCK_S)
    return Loaded(engine=StuckEngine(), hosted=hosted(), catalog=FakeCatalog(), num_slots=1)


if __name__ == "__main__":
    run_server(Settings(inference=InferenceSettings(port=0, metrics_port=None)), load)

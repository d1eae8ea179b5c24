"""Pins on an engine without networks, and what they come to."""

import threading

from diptych.errors import DiptychError
from support.fake_device import Rig, use

__all__ = ["Answer", "pin", "resident", "unpin"]


class Answer:
    """What a pin comes to."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._error: DiptychError | None = None

    def __call__(self, error: DiptychError | None) -> None:
        self._error = error
        self._event.set()

    def get(self) -> DiptychError | None:
        assert self._event.wait(10)
        return self._error


def pin(rig: Rig, name: str, tenant: str = "default") -> None:
    answer = Answer()
    ticket = rig.engine.load_adapter(use(name, tenant=tenant), answer)
    assert answer.get() is None
    ticket.keep()


def unpin(
    rig: Rig, name: str, tenant: str = "default", *, evict: bool = False
) -> DiptychError | None:
    answer = Answer()
    rig.engine.unload_adapter(use(name, tenant=tenant), evict=evict, done=answer)
    return answer.get()


def resident(rig: Rig) -> set[str]:
    members = [member for unit in rig.executor.attached for member in unit.members]
    return {member.digest.removeprefix("sha256:") for member in members}

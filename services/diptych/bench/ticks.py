"""What an engine says of its ticks while it is measured."""

import threading
from dataclasses import dataclass

from diptych.inference.ports import Observer
from diptych.inference.trajectory import Expert

__all__ = ["Silence", "Tick", "TickLog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One UNet forward."""

    expert: str
    num_rows: int
    num_adapter_sets: int
    seconds: float


class TickLog:
    """An observer that remembers ticks and passes everything on; safe from any thread."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._lock = threading.Lock()
        self._ticks: list[Tick] = []
        self.on_queue_time = observer.on_queue_time
        self.on_decode = observer.on_decode
        self.on_adapter_load = observer.on_adapter_load
        self.on_look = observer.on_look
        self.on_finish = observer.on_finish

    def on_tick(
        self, *, expert: Expert, num_rows: int, num_adapter_sets: int, seconds: float
    ) -> None:
        """Note one tick."""
        tick = Tick(
            expert=expert.value,
            num_rows=num_rows,
            num_adapter_sets=num_adapter_sets,
            seconds=seconds,
        )
        with self._lock:
            self._ticks.append(tick)
        self._observer.on_tick(
            expert=expert, num_rows=num_rows, num_adapter_sets=num_adapter_sets, seconds=seconds
        )

    def seen(self) -> list[Tick]:
        """Return the ticks since the last ``clear``."""
        with self._lock:
            return list(self._ticks)

    def clear(self) -> None:
        """Forget them."""
        with self._lock:
            self._ticks.clear()


class Silence:
    """An observer that forgets what it hears."""

    def on_tick(
        self, *, expert: Expert, num_rows: int, num_adapter_sets: int, seconds: float
    ) -> None:
        """Do nothing."""

    def on_queue_time(self, seconds: float) -> None:
        """Do nothing."""

    def on_decode(self, seconds: float) -> None:
        """Do nothing."""

    def on_adapter_load(self, *, seconds: float, tier: str, reason: str | None) -> None:
        """Do nothing."""

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Do nothing."""

    def on_finish(self, *, seconds: float, num_images: int, reason: str | None) -> None:
        """Do nothing."""

"""An engine on a fake device: what it is asked is noted, and its ticks can be held."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from diptych.errors import AdapterInvalid, DiptychError, EngineFault, PromptTooLong
from diptych.inference.adapter_units import Unit, units_of
from diptych.inference.engine import Engine, EngineConfig
from diptych.inference.ports import Finished, Measurement, Picture, Placement, Prepared, Row
from diptych.inference.route import Route
from diptych.inference.trajectory import (
    AdapterUse,
    Completed,
    Event,
    Expert,
    Failed,
    ImageRequest,
    StageSettings,
)

__all__ = [
    "FakeDecoder",
    "FakeExecutor",
    "FakeLoader",
    "FakeObserver",
    "Mailbox",
    "Rig",
    "request",
    "use",
]


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeExecutor:
    """Keeps which request is in which slot, and counts; a gate can hold its ticks."""

    def __init__(self) -> None:
        self.slots: dict[int, Placement] = {}
        self.attached: dict[Unit, Prepared] = {}
        self.ticks: list[tuple[Expert, list[str]]] = []
        self.encoded: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.before_run: Callable[[list[str]], None] = lambda names: None
        self.warm_up_error: Exception | None = None

    def route(self, request: ImageRequest) -> Route:
        cut = round((request.boundary or 1.0) * request.num_steps)
        steps = range(request.num_steps)
        return Route(
            experts=tuple(Expert.BASE if step < cut else Expert.REFINER for step in steps),
            num_rows=(2,) * request.num_steps,
            steps=tuple(step + 1 for step in steps),
            num_steps=request.num_steps,
            coefficients=np.zeros((request.num_steps, 1), np.float32),
            needs_noise=(False,) * request.num_steps,
            start=(0.0, 1.0),
        )

    def warm_up(self) -> Sequence[Measurement]:
        if self.warm_up_error is not None:
            raise self.warm_up_error
        sample = Measurement(expert=Expert.BASE, num_pixels=64 * 64, num_rows=2, seconds=2.0)
        return [sample, replace(sample, expert=Expert.REFINER)]

    def encode(self, requests: Sequence[ImageRequest]) -> Sequence[SimpleNamespace | DiptychError]:
        names = [request.request_id for request in requests]
        self.encoded.append(names)
        if any(name.startswith("unencodable") for name in names):
            raise RuntimeError("no such word")
        return [
            PromptTooLong(field="prompt", num_tokens=99, limit=77, cut_text="x")
            if name.startswith("long")
            else SimpleNamespace(
                text_lengths={Expert.BASE: 77, Expert.REFINER: 77},
                num_texts_encoded=3,
                num_texts_cached=1,
            )
            for name in names
        ]

    def attach(self, unit: Unit, prepared: Prepared) -> None:
        assert unit not in self.attached, "an adapter is attached once"
        if prepared.value == "unattachable":
            raise RuntimeError("cannot be attached")
        self.attached[unit] = prepared

    def detach(self, unit: Unit) -> None:
        del self.attached[unit]

    def place(self, placement: Placement) -> None:
        assert placement.slot not in self.slots, "a slot holds one image"
        assert units_of(placement.request).keys() <= self.attached.keys(), "adapters come first"
        if placement.request.request_id.startswith("unplaceable"):
            raise RuntimeError("cannot be placed")
        self.slots[placement.slot] = placement

    def run(self, expert: Expert, rows: Sequence[Row]) -> Sequence[object | None]:
        names = [self.slots[row.slot].request.request_id for row in rows]
        self.before_run(names)
        self.ticks.append((expert, names))
        self.reached.set()
        assert self.gate.wait(10)
        return ["denoised" if row.preview else None for row in rows]

    def take(self, slot: int) -> Finished:
        return Finished(latents=self.slots.pop(slot).request.request_id, draws=1)

    def release(self, slot: int) -> None:
        self.slots.pop(slot, None)


class FakeLoader:
    """Loads an adapter of the rank its name says at once, or when it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held: dict[str, Callable[[], None]] = {}
        self.hold = False
        self.limit_bytes = 1 << 30
        self.in_memory: dict[Unit, int] = {}
        self.most_bytes = 0
        self.bound: frozenset[Unit] = frozenset()
        """What is in host memory already."""
        self.kept: set[tuple[str, str]] = set()

    def prepare(
        self,
        unit: Unit,
        uses: tuple[AdapterUse, ...],
        *,
        fetching: Callable[[], None],
        done: Callable[[Prepared | DiptychError], None],
    ) -> None:
        name = "+".join(use.name for use in uses)
        self.asked.append(name)

        def finish() -> None:
            fetching()
            if name.startswith("broken"):
                done(AdapterInvalid(name, "no tensors"))
                return
            rank = sum(int(use.name.partition("-r")[2] or 4) for use in uses)
            value = "unattachable" if name.startswith("unattachable") else name
            self.holds(unit, 8)
            if "token" in name:
                done(Prepared(num_lines=0, size_bytes=8, value=value, token_bytes=8))
            else:
                done(Prepared(num_lines=rank, size_bytes=8, value=value))

        if self.hold and not self.has(unit):
            self.held[name] = finish
        else:
            finish()

    def has(self, unit: Unit) -> bool:
        return unit in self.bound

    def in_host(self) -> frozenset[str]:
        return frozenset(own.digest for unit in self.bound for own in unit.members)

    def holds(self, unit: Unit, size_bytes: int) -> None:
        self.in_memory[unit] = size_bytes
        self.most_bytes = max(self.most_bytes, sum(self.in_memory.values()))

    def is_full(self) -> bool:
        return sum(self.in_memory.values()) >= self.limit_bytes

    def keep(self, use: AdapterUse) -> None:
        self.kept.add((use.tenant, use.digest))

    def let_go(self, use: AdapterUse) -> None:
        self.kept.discard((use.tenant, use.digest))

    def stop(self) -> None:
        pass


class FakeDecoder:
    """Answers at once, in the thread that asks."""

    def decode(
        self,
        latents: object,
        request: ImageRequest,
        done: Callable[[Picture | DiptychError], None],
    ) -> None:
        if request.request_id.startswith("nan"):
            done(EngineFault("latents are not finite"))
        else:
            done(Picture(width=request.width, height=request.height, data=str(latents).encode()))

    def preview(
        self,
        denoised: object,
        request: ImageRequest,
        done: Callable[[Picture | DiptychError], None],
    ) -> None:
        done(Picture(width=8, height=8, data=b"small"))

    def stop(self) -> None:
        pass


@dataclass
class FakeObserver:
    """Remembers what it hears."""

    ticks: list[tuple[Expert, int]] = field(default_factory=list)
    adapter_sets: list[int] = field(default_factory=list)
    """Of each tick."""
    finished: list[str | None] = field(default_factory=list)
    loads: list[tuple[str, str | None]] = field(default_factory=list)

    def on_tick(
        self, *, expert: Expert, num_rows: int, num_adapter_sets: int, seconds: float
    ) -> None:
        self.ticks.append((expert, num_rows))
        self.adapter_sets.append(num_adapter_sets)

    def on_queue_time(self, seconds: float) -> None:
        pass

    def on_decode(self, seconds: float) -> None:
        pass

    def on_adapter_load(self, *, seconds: float, tier: str, reason: str | None) -> None:
        self.loads.append((tier, reason))

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        pass

    def on_finish(self, *, seconds: float, num_images: int, reason: str | None) -> None:
        self.finished.append(reason)


class Mailbox:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Completed | Failed):
            self._ended.set()

    def end(self) -> Event:
        assert self._ended.wait(10), "the request ends"
        return self.events[-1]

    def error(self) -> DiptychError:
        end = self.end()
        assert isinstance(end, Failed)
        return end.error


class Rig:
    """An engine on fakes."""

    def __init__(self, **config: int) -> None:
        self.executor, self.observer, self.clock = FakeExecutor(), FakeObserver(), Clock()
        self.loader = FakeLoader()
        self.engine = Engine(
            self.executor,
            FakeDecoder(),
            self.loader,
            observer=self.observer,
            config=EngineConfig(**config),
            clock=self.clock,
        )

    def start(self) -> None:
        self.engine.start()
        assert self.engine.wait_ready(10)

    def submit(self, name: str = "a", **settings: object) -> Mailbox:
        mailbox = Mailbox()
        self.engine.submit(request(name, **settings), mailbox)
        return mailbox

    def hold(self) -> None:
        """Let the next tick begin but not end."""
        self.executor.gate.clear()
        self.executor.reached.clear()

    def wait_held(self) -> None:
        assert self.executor.reached.wait(10)

    def settle(self) -> None:
        """Wait until the engine has done all that was asked of it."""
        self.submit("settle", num_steps=1).end()


def use(name: str, **settings: object) -> AdapterUse:
    """Return a use of the adapter ``name``; its rank is what follows ``-r``, else 4."""
    return replace(AdapterUse(digest=f"sha256:{name}", name=name), **settings)  # type: ignore[arg-type]


def request(name: str, **settings: object) -> ImageRequest:
    base = ImageRequest(
        request_id=name,
        width=64,
        height=64,
        seed=7,
        num_steps=4,
        base=StageSettings(prompt="a cat"),
    )
    return replace(base, **settings)  # type: ignore[arg-type]

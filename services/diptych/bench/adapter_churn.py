"""Whether a server that adapters came and went through for long is the one it was before.

Random operations run a few at a time: pictures with random sets, loads, unloads, evictions,
imports, deletions, merges, and requests given up. The device holds fewer lines than all adapters
need, so that they keep pushing each other out.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch._dynamo.utils import counters

from diptych.adapters.adapter import MAX_RANK, Component
from diptych.adapters.writing import write_adapter
from diptych.bench.adapter_makers import ATTENTION, CONVOLUTIONS, TRANSFORMERS, Made, make, of_base
from diptych.bench.memory import AT_REST_S, MAX_GROWTH, await_idle, resident_at_rest
from diptych.bench.serving import Serving
from diptych.bench.weights import digest_of_weights, layout_of_modules
from diptych.clients.adapter_values import ImportCall, MergeCall
from diptych.clients.calls import AdapterChoice, GenerateCall, Stage
from diptych.clients.events import Queued
from diptych.errors import (
    AdapterInUse,
    AdapterNotFound,
    AdapterSlotsFull,
    InvalidRequest,
    NameMoved,
    QueueFull,
)
from diptych.inference.base_weights import BaseWeights
from diptych.inference.settings import InferenceSettings

__all__ = ["CHURN_SETTINGS", "OPERATIONS", "Churn", "measure_churn"]

CHURN_SETTINGS: Final = InferenceSettings(
    adapter_lines=MAX_RANK, adapter_host_bytes=16 << 20, adapter_slice_s=0.05
)
"""Lines and host memory for a few adapters at a time."""
OPERATIONS: Final[Mapping[str, int]] = {
    "generate": 56,
    "give up": 6,
    "load": 10,
    "unload": 8,
    "evict": 8,
    "import": 6,
    "delete": 4,
    "merge": 2,
}
"""Operation -> how often it is drawn, of 100."""
_SETTLING_SHARE: Final = 0.2
_AT_ONCE: Final = 4
_SIDE: Final = 64
_PARTS: Final = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
_MERGED: Final = ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties")
_EXPECTED: Final = (
    AdapterInUse,
    AdapterNotFound,
    AdapterSlotsFull,
    InvalidRequest,
    NameMoved,
    QueueFull,
)
"""What operations that cross each other run into; InvalidRequest where two names mean one adapter,
or two adapters call their token alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """A server before and after."""

    num_operations: int
    counts: Mapping[str, int]
    """Operations that were done, by kind."""
    refused: Mapping[str, int]
    """Those that were refused since another had come before, by reason."""
    before_bytes: int
    after_bytes: int
    weights_kept: bool
    """Whether all parameters and buffers are the same bit for bit, in the same modules."""
    picture_kept: bool
    """Whether a picture without adapters is the same bit for bit."""
    num_graphs: int
    """Graphs that were compiled meanwhile."""
    num_slots: int
    slots_free: int
    num_lines: int
    lines_usable: int
    """How many could still be filled at the end."""

    @property
    def growth(self) -> float:
        """Return the growth of resident memory, as a share."""
        return self.after_bytes / self.before_bytes - 1

    @property
    def holds(self) -> bool:
        """Whether everything is as promised."""
        kept = self.weights_kept and self.picture_kept and not self.num_graphs
        lost = self.slots_free < self.num_slots or self.lines_usable < self.num_lines
        return kept and not lost and self.growth < MAX_GROWTH


def measure_churn(
    server: Serving,
    *,
    num_operations: int,
    seed: int = 0,
    rest_s: float = AT_REST_S,
    progress: Callable[[], None] = lambda: None,
) -> Churn:
    """Do random operations and look at weights, memory, slots and lines before and after.

    Args:
        server: With ``CHURN_SETTINGS``; serves nobody else.
        num_operations: Between the two looks; a fifth as many come before the first.
        seed: Of the operations.
        rest_s: How long the server does nothing before each look at memory.
        progress: Called after every operation.
    """
    crowd = _Crowd(server=server, rng=random.Random(seed))  # noqa: S311 - a workload, no secret
    crowd.settle()
    digest, layout = digest_of_weights(server.experts), layout_of_modules(server.experts)
    picture, num_graphs = _picture(server), _num_graphs()
    crowd.run(int(num_operations * _SETTLING_SHARE), progress)
    before_bytes = resident_at_rest(server, rest_s)
    crowd.forget_counts()
    crowd.run(num_operations, progress)
    after_bytes = resident_at_rest(server, rest_s)
    lines_usable = crowd.fill_all_lines()
    await_idle(server)
    same_modules = layout == layout_of_modules(server.experts)
    return Churn(
        num_operations=num_operations,
        counts=dict(crowd.done),
        refused=dict(crowd.refused),
        before_bytes=before_bytes,
        after_bytes=after_bytes,
        weights_kept=same_modules and digest == digest_of_weights(server.experts),
        picture_kept=bool(np.array_equal(picture, _picture(server))),
        num_graphs=_num_graphs() - num_graphs,
        num_slots=server.num_slots,
        slots_free=server.stats().slots_free,
        num_lines=server.stats().adapters.pool.num_lines,
        lines_usable=lines_usable,
    )


@dataclass(slots=True, kw_only=True)
class _Crowd:
    """Callers; ``rng`` is read by the thread that draws operations alone."""

    server: Serving
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    _files: list[bytes] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self) -> None:
        """Import the adapters that stay, and the first of those that come and go."""
        base = of_base(self.server.experts)
        self._files = [_file(made, base) for made in _kinds()]
        for number, data in enumerate(self._files):
            self._import(f"kept-{number}", data)
        self._names = [f"kept-{number}" for number in range(len(self._files))]
        for name in [f"passing-{n}" for n in range(6)] + [f"merged-{n}" for n in range(3)]:
            self._import(name, self.rng.choice(self._files))
            self._names.append(name)

    def run(self, count: int, progress: Callable[[], None]) -> None:
        """Do ``count`` operations, a few at a time."""
        kinds = self.rng.choices(list(OPERATIONS), list(OPERATIONS.values()), k=count)
        room = threading.Semaphore(2 * _AT_ONCE)
        with ThreadPoolExecutor(_AT_ONCE, "caller") as pool:

            def attempt(kind: str, work: Callable[[], object]) -> None:
                try:
                    self._attempt(kind, work)
                finally:
                    room.release()
                    progress()

            pending = []
            for kind in kinds:
                room.acquire()
                pending.append(pool.submit(attempt, kind, self._draw(kind)))
                pending = [one for one in pending if not one.done() or one.result()]

    def forget_counts(self) -> None:
        """Begin to count anew."""
        self.done.clear()
        self.refused.clear()

    def fill_all_lines(self) -> int:
        """Let every kept adapter go, then fill all lines with one; return how many it took."""
        for _, digest in self.server.stats().adapters.pool.pins:
            # By its digest, as its name may mean another one by now.
            self.server.adapters.unload(digest, evict=True)
        self._import("full", _file(Made(seed=99, rank=MAX_RANK, components=_PARTS), self._base()))
        try:
            self.server.adapters.load("full")
        except AdapterSlotsFull:
            return 0
        return MAX_RANK

    def _base(self) -> BaseWeights:
        return of_base(self.server.experts)

    def _attempt(self, kind: str, work: Callable[[], object]) -> None:
        try:
            work()
        except _EXPECTED as error:
            with self._lock:
                self.refused[error.reason] += 1
        else:
            with self._lock:
                self.done[kind] += 1

    def _draw(self, kind: str) -> Callable[[], object]:
        """Return one operation with everything about it decided."""
        rng, adapters = self.rng, self.server.adapters
        name = rng.choice(self._names)
        passing = rng.choice([name for name in self._names if name.startswith("passing")])
        data = rng.choice(self._files)
        match kind:
            case "generate":
                call = self._call()
                return lambda: self.server.client.generate_images(call)
            case "give up":
                call = self._call()
                return lambda: self._give_up(call)
            case "load":
                return lambda: adapters.load(name)
            case "unload" | "evict":
                pins = self.server.stats().adapters.pool.pins
                kept = rng.choice([digest for _, digest in pins] or [name])
                return lambda: adapters.unload(kept, evict=kind == "evict")
            case "import":
                return lambda: self._import(passing, data)
            case "delete":
                return lambda: adapters.delete(passing)
        merge = self._merge_call()
        return lambda: adapters.merge(merge)

    def _call(self) -> GenerateCall:
        rng = self.rng
        chosen = rng.sample(self._names, rng.choice((0, 1, 1, 1, 2, 3)))
        guidance_scale = rng.choice((1.0, 3.0))
        both = rng.random() < 0.5
        return GenerateCall(
            base=Stage(prompt=rng.choice(("a red heart", "<s0>")), guidance_scale=guidance_scale),
            base_only=not both,
            boundary=0.5 if both else None,
            num_steps=2 if both else 1,
            solver="euler",
            seed=rng.randrange(1000),
            width=_SIDE,
            height=_SIDE,
            output="latents",
            adapters=[AdapterChoice(adapter=own, scale=rng.uniform(-1, 1)) for own in chosen],
        )

    def _merge_call(self) -> MergeCall:
        rng = self.rng
        method = rng.choice(_MERGED)
        return MergeCall(
            sources={f"kept-{n}": rng.uniform(0.2, 1.0) for n in rng.sample((0, 1, 2), 2)},
            method=method,
            name=f"merged-{rng.randrange(3)}",
            density=0.5 if method in ("ties", "dare_linear", "dare_ties") else None,
            seed=rng.randrange(100),
            replace=True,
        )

    def _give_up(self, call: GenerateCall) -> None:
        events = self.server.client.generate(call)
        assert isinstance(events, Generator)
        assert isinstance(next(events), Queued)
        events.close()

    def _import(self, name: str, data: bytes) -> None:
        self.server.adapters.import_adapter(
            ImportCall(name=name, source=data, family="nano", replace=True)
        )


def _kinds() -> list[Made]:
    """Return adapters of all kinds; the first three can be merged with each other."""
    return [
        Made(seed=0, rank=4),
        Made(seed=1, rank=8),
        Made(seed=2, rank=16),
        Made(seed=3, rank=32, layers=TRANSFORMERS),
        Made(seed=4, rank=12, layers=CONVOLUTIONS),
        Made(seed=5, rank=8, norms="outputs"),
        Made(seed=6, rank=6, components=_PARTS, layers=ATTENTION),
        Made(seed=7, rank=8, components=_PARTS, token="<s0>"),  # noqa: S106 - a word of a prompt
        Made(seed=8, token="<s0>"),  # noqa: S106
    ]


def _file(made: Made, base: BaseWeights) -> bytes:
    (data,) = write_adapter(make(made, base), "bundle").values()
    return data


def _picture(server: Serving) -> NDArray[np.float32]:
    """Return latents without any adapter."""
    call = GenerateCall(
        base=Stage(prompt="a red heart"), num_steps=4, boundary=0.5, seed=1, output="latents"
    )
    latents = server.client.generate_images(call)[0].latents
    assert latents is not None
    return latents


def _num_graphs() -> int:
    """Return how many graphs this process has compiled so far."""
    return int(counters["stats"]["unique_graphs"])

"""What adapters cost on one device: in a batch, to switch, to bring from the host and from disk.

No server takes part, as in ``steps``; the store is a folder of this machine.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from diptych.adapters.bundle import to_bytes
from diptych.adapters.naming import Stage
from diptych.adapters.registry import Registry, utc_now
from diptych.adapters.stores import AdapterStores
from diptych.adapters.summary import summarise
from diptych.bench.adapter_makers import Made, make, of_base
from diptych.bench.direct import Direct, image_request
from diptych.bench.recipes import SEED_RECIPE
from diptych.bench.steps import ARCHITECTURES, device_name, now
from diptych.bench.ticks import Silence
from diptych.digest import Digest
from diptych.errors import DiptychError
from diptych.inference.adapter_loading import StoreLoader
from diptych.inference.adapter_units import unit_of
from diptych.inference.ports import Prepared
from diptych.inference.trajectory import AdapterUse, Expert, ImageRequest
from diptych.models.experts import Experts
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.tiers import open_files

__all__ = [
    "MAX_ATTACH_S",
    "MAX_COLD_S",
    "MAX_MIXED_RATIO",
    "AdapterDevice",
    "DeviceConfig",
    "measure_device",
]

MAX_MIXED_RATIO: Final = 1.10
MAX_ATTACH_S: Final = 0.010
MAX_COLD_S: Final = 0.150
_UNCOUNTED_STEPS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """What is measured, and how often."""

    architecture: str
    rank: int = 16
    num_images: int = 8
    """Of the batch, guided, each with an adapter of its own."""
    timed_steps: int = 9
    repeats: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDevice:
    """Medians, in seconds."""

    architecture: str
    device: str
    dtype: str
    config: DeviceConfig
    plain_step_s: float
    """One guided step of the base for the whole batch, without adapters."""
    mixed_step_s: float
    stayed_step_s: float
    """The mixed step between those of another batch with the same adapters."""
    switched_step_s: float
    """The mixed step between those of another batch with others."""
    attach_s: float
    """One adapter from host memory to the device."""
    cold_s: float
    """One adapter from a file of this machine to the device; the system may have it cached."""
    num_recorded: int
    """Graphs recorded by all that, after the start; any would be one too many."""

    @property
    def mixed_ratio(self) -> float:
        """Return the mixed step over the plain one."""
        return self.mixed_step_s / self.plain_step_s

    @property
    def switch_s(self) -> float:
        """Return what a step costs more after a step with other adapters than after its own."""
        return max(0.0, self.switched_step_s - self.stayed_step_s)


def measure_device(experts: Experts, config: DeviceConfig, *, folder: Path) -> AdapterDevice:
    """Measure the base of ``experts``.

    Args:
        experts: On the device to measure; no one else's.
        config: What to measure.
        folder: Empty; becomes the store of adapters.
    """
    assert experts.base is not None
    unet = experts.base.unet
    rig = _Rig(direct=Direct.of(experts), experts=experts, config=config)
    num_graphs = rig.direct.executor.num_graphs
    first, second = rig.attached(0), rig.attached(config.num_images)
    plain = rig.paired_seconds([replace(request, adapters=()) for request in first], first)
    stayed, switched = (rig.paired_seconds(first, others) for others in (first, second))
    return AdapterDevice(
        architecture=config.architecture,
        device=device_name(unet.device),
        dtype=str(unet.dtype).removeprefix("torch."),
        config=config,
        plain_step_s=plain[0],
        mixed_step_s=plain[1],
        stayed_step_s=stayed[0],
        switched_step_s=switched[0],
        attach_s=rig.attach_seconds(),
        cold_s=rig.cold_seconds(folder),
        num_recorded=rig.direct.executor.num_graphs - num_graphs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rig:
    """An executor driven by hand."""

    direct: Direct
    experts: Experts
    config: DeviceConfig

    def attached(self, start: int) -> list[ImageRequest]:
        """Return requests that each have an adapter of their own on the device."""
        size = ARCHITECTURES[self.config.architecture]
        recipe = replace(SEED_RECIPE, width=size, height=size, solver="euler", boundary=None)
        requests = []
        for number in range(start, start + self.config.num_images):
            use = _use(str(number))
            self.direct.executor.attach(unit_of(use), self._bound(use, number))
            request = image_request(replace(recipe, seed=number))
            requests.append(replace(request, adapters=(use,)))
        return requests

    def paired_seconds(
        self, one: list[ImageRequest], other: list[ImageRequest]
    ) -> tuple[float, float]:
        """Return the median seconds of a step of ``one`` and of ``other``, which take turns."""
        executor, count = self.direct.executor, len(one)
        requests = [*one, *other]
        self.direct.place(requests)
        rows = self.direct.rows(len(requests), 0)
        pairs = []
        for position in range(_UNCOUNTED_STEPS + self.config.timed_steps):
            due = [replace(row, position=position) for row in rows]
            batches = (due[:count], due[count:])
            pairs.append([self._timed(partial(executor.run, Expert.BASE, own)) for own in batches])
        for slot in range(len(requests)):
            executor.release(slot)
        ones, others = zip(*pairs[_UNCOUNTED_STEPS:], strict=True)
        return median(ones), median(others)

    def attach_seconds(self) -> float:
        """Return the median seconds from host memory to the device."""
        use = _use("attached")
        prepared = self._bound(use, 2000)
        return median(self._attach(use, prepared) for _ in range(self.config.repeats + 1))

    def cold_seconds(self, folder: Path) -> float:
        """Return the median seconds from a file to the device, by the server's own loader."""
        blobs, refs = LocalBlobs(folder / "blobs"), LocalRefs(folder / "names")
        files = open_files(blobs, cache_dir=folder / "cache", limit_bytes=1 << 40)
        registry = Registry(AdapterStores(blobs=blobs, refs=refs), files)
        use = self._published(registry)
        loader = StoreLoader(registry, self.direct.executor.bind, host_bytes=0, observer=Silence())
        seconds = []
        for _ in range(self.config.repeats + 1):
            began = now(self.direct.vae.device)
            prepared = _loaded(loader, use)
            load_s = now(self.direct.vae.device) - began
            seconds.append(load_s + self._attach(use, prepared))
        loader.stop()
        return median(seconds)

    def _published(self, registry: Registry) -> AdapterUse:
        adapter = make(self._made(3000), of_base(self.experts))
        data = to_bytes(adapter)
        card = summarise(
            adapter,
            digest=Digest.of_bytes(data),
            size_bytes=len(data),
            source="bench",
            created_at=utc_now(),
        )
        return AdapterUse(digest=str(registry.publish("cold", data, card)), name="cold")

    def _attach(self, use: AdapterUse, prepared: Prepared) -> float:
        """Attach an adapter, detach it again, and return the seconds of the first."""
        executor, unit = self.direct.executor, unit_of(use)
        seconds = self._timed(partial(executor.attach, unit, prepared))
        executor.detach(unit)
        return seconds

    def _bound(self, use: AdapterUse, seed: int) -> Prepared:
        return self.direct.executor.bind([use], [make(self._made(seed), of_base(self.experts))])

    def _made(self, seed: int) -> Made:
        return Made(seed=seed, rank=self.config.rank, stage=Stage.BASE)

    def _timed(self, work: Callable[[], object]) -> float:
        began = now(self.direct.vae.device)
        work()
        return now(self.direct.vae.device) - began


def _use(name: str) -> AdapterUse:
    return AdapterUse(digest=f"sha256:{name}", name=name)


def _loaded(loader: StoreLoader, use: AdapterUse) -> Prepared:
    """Return an adapter that was brought to host memory, which ``loader`` may then forget."""
    found: list[Prepared | DiptychError] = []
    is_there = threading.Event()

    def done(result: Prepared | DiptychError) -> None:
        found.append(result)
        is_there.set()

    loader.prepare(unit_of(use), (use,), fetching=lambda: None, done=done)
    is_there.wait()
    loader.holds(unit_of(use), 0)
    (result,) = found
    if isinstance(result, DiptychError):
        raise result
    return result

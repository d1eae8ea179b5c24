"""The same encode as a Ray Data pipeline: decode on CPUs, encode on devices, write packs.

For datasets that outgrow one machine. Images are read and decoded by tasks anywhere in the cluster,
encoded by a pool of actors that each hold a device, and written by tasks in packs of their own.
Whatever is read and written must be within every machine's reach.
"""

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry

from diptych.datasets.expansion import read_image
from diptych.datasets.findings import Findings
from diptych.datasets.index import IndexEntry
from diptych.datasets.pictures import prepare
from diptych.datasets.places import Places
from diptych.datasets.source_spec import SourceSpec
from diptych.datasets.sources.base import Source
from diptych.datasets.sources.opening import open_source
from diptych.digest import Digest
from diptych.embedding_cache.batching import BatchConfig
from diptych.embedding_cache.claims import Claims
from diptych.embedding_cache.dataset_images import DatasetImages
from diptych.embedding_cache.encoding import Encoders, ImageWork, Work
from diptych.embedding_cache.host import Device
from diptych.embedding_cache.loading import load_encoders
from diptych.embedding_cache.local_engine import FINDINGS, problem_of
from diptych.embedding_cache.needs import Need
from diptych.embedding_cache.ports import GoOn, WarmStore
from diptych.embedding_cache.settings import Settings
from diptych.embedding_cache.tally import Tally
from diptych.embeddings.key import PromptRecord
from diptych.embeddings.tiers import StoreConfig, open_packs
from diptych.errors import ExtraMissing, SourceUnavailable
from diptych.telemetry.cache_metrics import CacheMetrics

__all__ = ["RayEngine", "ray_cluster"]

_PACK_ENTRIES: Final = 64
_CONNECT_S: Final = 10.0
_Row = dict[str, Any]
_Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetched:
    """A need with what is to be encoded, or with what is wrong."""

    key: str
    work: Work | None = None
    problem: str = ""
    is_fatal: bool = False
    """Whether it is the source that is wrong."""


class RayEngine:
    """Makes what is missing on the cluster that ``ray_cluster`` joined."""

    def __init__(self, store: WarmStore, *, settings: Settings, packs: StoreConfig) -> None:
        """Set up.

        Args:
            store: Tells what is missing.
            settings: How each actor loads its encoders: on its one device.
            packs: Where packs are written.
        """
        self._store, self._settings, self._packs = store, settings, packs

    def encode(
        self,
        needs: Sequence[Need],
        *,
        images: DatasetImages,
        claims: Claims,
        tally: Tally,
        go_on: GoOn,
    ) -> None:
        """Make those of ``needs`` that are missing; one driver shares the work out, not claims.

        Raises:
            SourceUnavailable: Images cannot be read.
            DiptychError: What ``go_on`` raises.
        """
        del claims
        located = self._store.locate([need.key for need in needs])
        missing = {need.key.hex: need for need in needs if need.key not in located}
        tally.present(len(needs) - len(missing))
        if not missing:
            return
        for row in self._pipeline(list(missing.values()), images).iter_rows():
            go_on()
            if row["is_fatal"]:
                raise SourceUnavailable(missing[row["key"]].dataset, row["problem"])
            if row["problem"]:
                tally.failed(images.name(missing[row["key"]]), row["problem"])
            else:
                tally.encoded(1)
        self._store.refresh()

    def _pipeline(self, needs: Sequence[Need], images: DatasetImages) -> Any:  # noqa: ANN401
        """Return the rows to come, one of each need."""
        import ray  # noqa: PLC0415 - an extra

        sources = {name: one.spec.source for name, one in images.datasets.items()}
        rows = [{"need": need, "entry": _entry(need, images)} for need in needs]
        gpus, cpus = _count("GPU"), _count("CPU")
        num_actors = gpus or max(1, cpus // 2)
        blocks = -(-len(rows) // _PACK_ENTRIES)
        actors = ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_actors, blocks))
        return (
            ray.data.from_items(rows, override_num_blocks=blocks)
            .map(partial(_fetched, sources=sources, places=images.places))
            .map_batches(
                _Encode,
                fn_constructor_args=(self._settings,),
                batch_size=_PACK_ENTRIES,
                compute=actors,
                num_gpus=1 if gpus else None,
                # Tasks need a CPU too: an actor on the only one would wait for them for ever.
                num_cpus=None if gpus else min(1, cpus - 1),
            )
            .map_batches(partial(_written, config=self._packs), batch_size=_PACK_ENTRIES)
        )


class _Encode:
    """One device's encoders, in an actor of their own."""

    def __init__(self, settings: Settings) -> None:
        own = settings.cache
        config = BatchConfig(
            max_batch=own.max_batch, max_wait_s=own.max_wait_s, max_waiting=2 * _PACK_ENTRIES
        )
        self._device = Device(CacheMetrics(CollectorRegistry()), config)
        for one in load_encoders(settings):
            self._device.add(Encoders(one))

    def __call__(self, columns: _Columns) -> _Columns:
        """Return keys with values, or with what is wrong."""
        fetched: list[_Fetched] = list(columns["fetched"])
        making = [
            None if one.work is None else self._device.submit(Digest(hex=one.key), one.work)
            for one in fetched
        ]
        values, problems = [], []
        for one, future in zip(fetched, making, strict=True):
            value, problem = b"", one.problem
            if future is not None:
                try:
                    value = future.result()
                except FINDINGS as error:
                    problem = problem_of(error)
            values.append(value)
            problems.append(problem)
        return {
            "key": [one.key for one in fetched],
            "value": _objects(values),
            "problem": problems,
            "is_fatal": [one.is_fatal for one in fetched],
        }


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[bool]:
    """Join the Ray cluster at ``address`` for as long as this lasts; tell whether it has GPUs.

    Without an address it is the one that RAY_ADDRESS names, the one that runs on this machine, or
    a new one here; where this process has joined one already, that one.

    Raises:
        ExtraMissing: Ray is not installed.
        SourceUnavailable: There is no cluster.
    """
    try:
        import ray  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="ray", needed_for="warming up on a Ray cluster") from missing
    is_joined = ray.is_initialized()
    if not is_joined:
        _check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SourceUnavailable(f"Ray at {address or 'RAY_ADDRESS'}", str(error)) from error
    quiet = ray.data.DataContext.get_current()
    quiet.enable_progress_bars = False
    quiet.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield _count("GPU") > 0
    finally:
        if not is_joined:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Fail at once where nothing listens at ``host:port``: Ray would try for minutes.

    Raises:
        SourceUnavailable: Nothing does.
    """
    host, _, port = (address or "").rpartition(":")
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise SourceUnavailable(f"Ray at {address}", error.strerror or str(error)) from error


def _count(resource: str) -> int:
    """Return how many the cluster has of what Ray calls ``CPU`` or ``GPU``."""
    import ray  # noqa: PLC0415 - an extra

    return int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]


def _entry(need: Need, images: DatasetImages) -> IndexEntry | None:
    return None if need.kind == "prompt" else images.datasets[need.dataset][need.place]


def _fetched(row: _Row, *, sources: Mapping[str, SourceSpec], places: Places) -> _Row:
    """Return a need with the pixels of its image, read and decoded where this runs."""
    need: Need = row["need"]
    entry: IndexEntry | None = row["entry"]
    record = need.record
    if isinstance(record, PromptRecord):
        return {"fetched": _Fetched(key=need.key.hex, work=record)}
    assert entry is not None, "an image has a place"
    source = _opened(sources[need.dataset], places)
    try:
        pixels = prepare(read_image(source, entry), record.preprocessing)
    except FINDINGS as error:
        return {"fetched": _Fetched(key=need.key.hex, problem=problem_of(error))}
    except SourceUnavailable as error:
        is_fatal = not source.is_patchy
        found = _Fetched(key=need.key.hex, problem=str(error), is_fatal=is_fatal)
        return {"fetched": found}
    return {"fetched": _Fetched(key=need.key.hex, work=ImageWork(record=record, pixels=pixels))}


@cache
def _opened(spec: SourceSpec, places: Places) -> Source:
    """Return a source, opened once by each of Ray's processes."""
    return open_source(spec, note=Findings().of_dataset(""), places=places)


def _written(columns: _Columns, *, config: StoreConfig) -> _Columns:
    """Write values as one pack; return their keys, and what became of them."""
    made = {
        bytes.fromhex(key): value
        for key, value in zip(columns["key"], columns["value"], strict=True)
        if value
    }
    if made:
        packs = open_packs(config)
        assert packs is not None, "there is a folder or a bucket"
        packs.write_pack(made)
        packs.close()
    return {name: columns[name] for name in ("key", "problem", "is_fatal")}


def _objects(values: Sequence[bytes]) -> Any:  # noqa: ANN401
    """Return values as a column that keeps the zeros at their ends."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column

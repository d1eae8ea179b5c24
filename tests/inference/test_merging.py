"""Stored adapters are merged as they were stored; see also ``test_catalog``."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Target
from diptych.adapters.bundle import to_bytes
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.adapters.summary import summarise
from diptych.digest import Digest
from diptych.errors import AdapterMismatch, AdapterNotFound, InvalidRequest, RequestCancelled
from diptych.inference.merging import merge_stored
from diptych.inference.orders import MergeOrder
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.tiers import DirectFiles
from support.catalogs import NOON
from support.made_adapters import noise

Order = Callable[..., MergeOrder]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    stores = AdapterStores(blobs=LocalBlobs(tmp_path / "blobs"), refs=LocalRefs(tmp_path / "refs"))
    registry = Registry(stores, DirectFiles())
    for seed, (name, family) in enumerate({"a": "nano", "b": "nano", "c": "sdxl-base"}.items()):
        target = Target(component=Component.UNET, module="to_q")
        low_rank = LowRank(down=noise(2, 4, seed=seed), up=noise(4, 2, seed=9 + seed), alpha=2.0)
        adapter = Adapter(targets={target: low_rank}, made_for=MadeFor(family=family))
        data = to_bytes(adapter)
        card = summarise(
            adapter,
            digest=Digest.of_bytes(data),
            size_bytes=len(data),
            source=name,
            created_at=NOON,
        )
        registry.publish(name, data, card)
    return registry


def order_of(*sources: str, **fields: object) -> MergeOrder:
    spec = MergeSpec(method="linear")
    return MergeOrder(sources=sources, spec=spec, name="m", **fields)  # type: ignore[arg-type]


def test_every_target_is_told(registry: Registry) -> None:
    told: list[tuple[int, int]] = []
    merge_stored(
        registry,
        order_of("a", "b"),
        weights={},
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 1)]


def test_progress_ends_a_merge_by_raising(registry: Registry) -> None:
    def leave(done: int, total: int) -> None:
        raise RequestCancelled(f"{done} of {total}")

    with pytest.raises(RequestCancelled):
        merge_stored(registry, order_of("a", "b"), weights={}, progress=leave)


def test_unknown_source_is_named(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound, match="nobody"):
        merge_stored(registry, order_of("a", "nobody"), weights={}, progress=lambda *_: None)


def test_unlike_source_is_named(registry: Registry) -> None:
    with pytest.raises(AdapterMismatch, match="adapter c: its family is sdxl-base"):
        merge_stored(registry, order_of("a", "c"), weights={}, progress=lambda *_: None)


def test_weights_that_overflow_are_refused(registry: Registry) -> None:
    spec = MergeSpec(method="linear", weights=(1e300, 1.0))
    with pytest.raises(InvalidRequest, match=r"sources: .* NaN or infinite"):
        merge_stored(
            registry,
            dataclasses.replace(order_of("a", "b"), spec=spec),
            weights={},
            progress=lambda *_: None,
        )


def test_unlike_sources_by_force_were_made_for_nothing(registry: Registry) -> None:
    order = order_of("a", "c", force=True)
    merged = merge_stored(registry, order, weights={}, progress=lambda *_: None)
    assert merged.adapter.made_for.family is None


def test_zip_that_is_not_offered_is_refused(registry: Registry) -> None:
    order = dataclasses.replace(order_of("a", "b"), spec=MergeSpec(method="zip"))
    with pytest.raises(InvalidRequest, match="zip needs experts"):
        merge_stored(registry, order, weights={}, progress=lambda *_: None)

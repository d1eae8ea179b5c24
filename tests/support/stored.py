"""A real catalogue in a folder, over two experts of a few layers."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from torch import nn

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LowRank,
    MadeFor,
    Magnitude,
    Target,
)
from diptych.adapters.bundle import to_bytes
from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.errors import (
    AdapterNotFound,
)
from diptych.inference.base_weights import weights_of
from diptych.inference.catalog import AdapterCatalog, CatalogConfig
from diptych.inference.hosted import Hosted
from diptych.inference.orders import (
    ImportOrder,
    Shown,
    Upload,
)
from diptych.inference.trajectory import Expert
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.refs import RefStore
from diptych.storage.tiers import DirectFiles
from support.made_adapters import noise

__all__ = ["a_catalog", "an_adapter", "never", "taken"]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, width, 3)
        self.to_q = nn.Linear(width, width)
        self.tokens = nn.Embedding(8, width)


def an_adapter(
    width: int = 8, rank: int = 2, *, seed: int = 0, dora: bool = False, **made_for: object
) -> Adapter:
    magnitude = Magnitude(norms=noise(width, seed=9).abs(), per_input=False) if dora else None
    low_rank = LowRank(
        down=noise(rank, width, seed=seed),
        up=noise(width, rank, seed=seed + 1),
        alpha=1.0,
        magnitude=magnitude,
    )
    target = Target(component=Component.UNET, module="to_q")
    return Adapter(
        targets=MappingProxyType({target: low_rank}),
        made_for=MadeFor(**made_for),  # type: ignore[arg-type]
    )


def a_catalog(folder: Path, hosted: Hosted, *, refs: RefStore | None = None) -> AdapterCatalog:
    """Return an empty catalogue that keeps everything below ``folder``, save ``refs``."""
    refs = refs or LocalRefs(folder / "names")
    stores = AdapterStores(blobs=LocalBlobs(folder / "blobs"), refs=refs)
    weights = {
        expert: weights_of(expert, Block(width), {"text_encoder_2": Block(width)})
        for expert, width in ((Expert.BASE, 8), (Expert.REFINER, 6))
    }

    def nothing(uri: str, _: Callable[[], None]) -> object:
        raise AdapterNotFound(uri)

    return AdapterCatalog(
        Registry(stores, DirectFiles()),
        hosted=hosted,
        weights=weights,
        fetch=nothing,  # type: ignore[arg-type]
        config=CatalogConfig(incoming_dir=folder / "incoming", max_bytes=1 << 20),
    )


def never() -> None:
    pass


def taken(
    catalog: AdapterCatalog,
    adapter: Adapter | bytes,
    name: str = "huggy",
    *,
    go_on: Callable[[], None] = never,
    file_name: str = "huggy.safetensors",
    **order: object,
) -> Shown:
    data = adapter if isinstance(adapter, bytes) else to_bytes(adapter)
    upload = Upload(file_name=file_name, size_bytes=len(data))
    incoming = catalog.receive(ImportOrder(name=name, source=upload, **order))  # type: ignore[arg-type]
    try:
        incoming.write(data)
        return incoming.finish(go_on)
    finally:
        incoming.discard()

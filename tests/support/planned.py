"""Indices and plans of images that exist as sizes only."""

from collections.abc import Sequence

from diptych.datasets.index import DatasetIndex, IndexEntry
from diptych.datasets.plan import Plan, make_plan
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import DatasetSpec
from diptych.digest import Digest

__all__ = ["digest_of", "index_of", "plan_of", "spec_of"]


def spec_of(**changed: object) -> DatasetSpec:
    """Return a spec of defaults but for what is given."""
    values = {"id": "one", "source": FolderSource(path="/x"), **changed}
    return DatasetSpec(**values)  # type: ignore[arg-type]


def digest_of(name: object) -> Digest:
    """Return the digest of an image that is called so."""
    return Digest.of_bytes(str(name).encode())


def index_of(spec: DatasetSpec, sizes: Sequence[tuple[int, int]]) -> DatasetIndex:
    """Return an index of images of ``sizes``, called by the dataset and a number."""
    return DatasetIndex(
        spec,
        [
            IndexEntry(
                image=digest_of((spec.id, number)),
                width=width,
                height=height,
                captions=(f"{number} a", f"{number} b"),
                place=f"{number}.png",
            )
            for number, (width, height) in enumerate(sizes)
        ],
    )


def plan_of(sizes: Sequence[tuple[int, int]], *, batch_size: int = 1, **changed: object) -> Plan:
    """Return the plan of images of ``sizes`` as a spec with ``changed`` wants them."""
    spec = spec_of(**changed)
    return make_plan(index_of(spec, sizes), spec, batch_size=batch_size)

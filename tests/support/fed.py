"""Feeders over real pictures in a folder and a cache in memory."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diptych.datasets.expansion import Expansion
from diptych.datasets.manifest import parse_manifest
from diptych.datasets.places import EVERYWHERE
from diptych.datasets.plan import Plan, make_plans
from diptych.datasets.sampling import Sampler, SamplerConfig
from diptych.models.family import FAMILIES
from diptych.training.dataset_files import DatasetFiles
from diptych.training.embedding_reading import EmbeddingReader
from diptych.training.feeding import FeedConfig, Feeder
from diptych.training.keyed_draws import KeyedDraws
from support.made_pictures import write_pictures
from support.memory_embeddings import ENCODERS, MemoryCache

__all__ = ["FEED", "a_feeder", "some_plans"]

MANIFEST = """datasets:
- id: one
  source: {type: folder, path: in}
  size: {resolution: 64}
  checks: {near_duplicates: ignore}
"""
FEED = FeedConfig(
    draws=KeyedDraws(seed=5, expert="base"),
    encoders=ENCODERS,
    family=FAMILIES["nano"],
    zeros_when_dropped=True,
)


def some_plans(
    folder: Path, more: str = "", *, num_images: int = 6, batch_size: int = 2
) -> dict[str, Plan]:
    """Write pictures and return the plans of a manifest of them; ``more`` are lines of it."""
    write_pictures(folder / "in", **{f"p{n}": f"picture {n}" for n in range(num_images)})
    text = MANIFEST + "".join(f"  {line}\n" for line in more.splitlines())
    index = Expansion().index(parse_manifest(text.encode(), folder=folder))
    return make_plans(index, batch_size=batch_size)


def a_feeder(
    plans: Mapping[str, Plan],
    config: FeedConfig = FEED,
    *,
    cache: MemoryCache | None = None,
    num_epochs: int = 2,
) -> Feeder:
    """Return a feeder of ``plans`` from a cache, an empty one by default."""
    order = SamplerConfig(
        seed=3,
        num_epochs=num_epochs,
        rank=config.rank,
        num_ranks=config.num_ranks,
        num_accumulated=config.num_accumulated,
    )
    reader = EmbeddingReader(
        cache or MemoryCache(config.encoders), stage="base", memory_bytes=2**20
    )
    files = DatasetFiles(plans, EVERYWHERE)
    return Feeder(Sampler(plans, order), plans, reader, files, replace(config))

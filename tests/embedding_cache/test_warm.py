"""A warm-up makes what is missing once, keeps it from being collected, and names what it cannot."""

import os
from pathlib import Path

import pytest

from diptych.embedding_cache.ports import NeedsConfig, Stage
from diptych.embeddings.upkeep import gc
from diptych.errors import DatasetInvalid, ExpertMissing
from support.warming import (
    HashEncoding,
    Noted,
    a_dataset,
    a_warmer,
    encodes,
    needs_in,
    packed,
    warmed,
)

BASE = {Stage.BASE: HashEncoding()}


def test_everything_is_there_afterwards(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 9)
    with a_warmer(tmp_path, BASE) as (warmer, _):
        outcome = warmed(warmer, manifest)
    assert (outcome.num_total, outcome.num_encoded, outcome.failures) == (18, 18, ())
    needed = needs_in(tmp_path, manifest, BASE).needs
    assert packed(tmp_path) == {need.key.hex: 1 for need in needed}


def test_second_warm_up_makes_nothing(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 5)
    encodings = {Stage.BASE: Noted(HashEncoding(), tmp_path / "notes")}
    for expected in ((10, 0), (0, 10)):
        with a_warmer(tmp_path, encodings) as (warmer, _):
            outcome = warmed(warmer, manifest)
        assert (outcome.num_encoded, outcome.num_present) == expected
    assert set(encodes(tmp_path / "notes").values()) == {1}


def test_progress_ends_with_everything_done(tmp_path: Path) -> None:
    heard: list[tuple[int, ...]] = []
    with a_warmer(tmp_path, BASE) as (warmer, _):
        warmed(warmer, a_dataset(tmp_path, 6), progress=lambda *counts: heard.append(counts))
    assert heard[-1] == (12, 12, 12, 0)
    assert [done for done, *_ in heard] == sorted(done for done, *_ in heard)


def test_bad_images_are_named_and_the_others_made(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 4)
    (tmp_path / "in" / "p1.png").write_bytes(b"no picture")
    with a_warmer(tmp_path, BASE) as (warmer, _):
        outcome = warmed(warmer, manifest)
    assert outcome.num_encoded == 6
    ((item, problem),) = outcome.failures
    assert item == "one: p1.png"
    assert "is no known format" in problem


def test_gc_keeps_what_a_dataset_needs_of_each_stage(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 3)
    unlike = BASE | {Stage.REFINER: HashEncoding("other")}
    with a_warmer(tmp_path, unlike) as (warmer, store):
        digest = warmed(warmer, manifest).dataset
        warmed(warmer, manifest, Stage.REFINER)
        assert store.roots is not None
        assert [(root.name, root.num_keys) for root in store.roots.roots()] == [
            (f"datasets/{digest.hex}/base", 6),
            (f"datasets/{digest.hex}/refiner", 6),
        ]
        assert store.tiers.lasting is not None
        counts = []
        for stage in ("base", "refiner", "base"):
            found = gc(store.tiers.lasting, older_than_s=0.0, is_dry_run=True, grace_s=0.0)
            counts.append(found.num_collected)
            store.roots.delete_root(f"datasets/{digest.hex}/{stage}")
    assert counts == [0, 6, 12]


def test_stage_without_encoders_is_refused(tmp_path: Path) -> None:
    with a_warmer(tmp_path, BASE) as (warmer, _), pytest.raises(ExpertMissing):
        warmed(warmer, a_dataset(tmp_path, 1), Stage.REFINER)


def test_manifest_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with a_warmer(tmp_path, BASE) as (warmer, _), pytest.raises(DatasetInvalid):
        warmed(warmer, "datasets: [{id: one}]")


def test_read_only_dataset_is_looked_at_and_nothing_of_it_made(tmp_path: Path) -> None:
    with a_warmer(tmp_path, BASE) as (warmer, _):
        warmed(warmer, a_dataset(tmp_path, 2))
        more = "cache: {images: read_only, prompts: read_only}"
        outcome = warmed(warmer, a_dataset(tmp_path, 3, more))
    assert (outcome.num_total, outcome.num_present, outcome.num_encoded) == (6, 4, 0)
    assert outcome.failures == (
        ("one images", "1 are missing, and none may be made"),
        ("one prompts", "1 are missing, and none may be made"),
    )


def test_what_is_made_on_demand_is_made_where_that_is_forced(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 2, "cache: {images: on_demand, prompts: on_demand}")
    counts = []
    for force in (False, True):
        with a_warmer(tmp_path, BASE) as (warmer, _):
            outcome = warmed(warmer, manifest, needs=NeedsConfig(force=force))
            counts.append(outcome.num_encoded)
    assert counts == [0, 4]


def test_moved_dataset_needs_nothing_new(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 3)
    with a_warmer(tmp_path, BASE) as (warmer, _):
        before = warmed(warmer, manifest)
        (tmp_path / "in").rename(tmp_path / "out")
        after = warmed(warmer, manifest.replace("path: in", "path: out"))
    assert after.dataset == before.dataset
    assert (after.num_encoded, after.num_present) == (0, 6)


def test_what_claims_of_long_ago_left_is_removed(tmp_path: Path) -> None:
    old = tmp_path / "embeddings" / "default" / "claims" / "dataset" / "shard"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0.0, 0.0))
    with a_warmer(tmp_path, BASE) as (warmer, _):
        warmed(warmer, a_dataset(tmp_path, 1))
    assert not old.exists()

"""Checkpoints: whole or not there, whatever is damaged, full or killed."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typing_extensions import override

from diptych.datasets.sampling import Position
from diptych.digest import Digest
from diptych.errors import ResumeMismatch, SourceUnavailable, StoreFull
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from diptych.storage.s3_blobs import S3Blobs
from diptych.training.checkpoints import Checkpoint, Checkpoints
from support.buckets import Bucket, s3_bucket, s3_server
from support.faulty_proxy import Fault, faulty_proxy
from support.full_disk import files_no_larger_than

SPEC = Digest.of_bytes(b"spec")
POSITION = Position(epoch=2, batch=3, num_before=12)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as url:
        yield s3_bucket(url)


@pytest.fixture(params=["local", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "local":
        yield LocalBlobs(tmp_path / "checkpoints")
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        yield S3Blobs(bucket.store, prefix=f"test-{uuid.uuid4().hex}")


def a_checkpoint(step: int, *, expert: str = "base", size: int = 4) -> Checkpoint:
    return Checkpoint(
        expert=expert,
        place=int(expert == "refiner"),
        step=step,
        position=replace(POSITION, batch=step),
        is_finished=False,
        tensors={
            "weights": {"a": torch.full((size,), float(step))},
            "optimizer": {"state.0": torch.tensor(step)},
        },
        values={"lr": 0.1 + 0.2, "optimizer": {"tensor": "state.0"}},
    )


def kept(blobs: BlobStore, *, keep: int = 2, spec: Digest = SPEC) -> Checkpoints:
    return Checkpoints(blobs, spec=spec, keep=keep, warn=lambda *_: None)


def names(blobs: BlobStore) -> set[str]:
    return {info.key.rpartition("/")[0] for info in blobs.listing("")}


def latest_step(checkpoints: Checkpoints, expert: str | None = None) -> int:
    found = checkpoints.latest(expert)
    assert found is not None
    return found.step


def damage(blobs: BlobStore, key: str) -> None:
    data = bytearray(b"".join(blobs.read(key)))
    data[-1] ^= 1
    blobs.put(key, [bytes(data)])


def test_a_checkpoint_comes_back_as_it_was(blobs: BlobStore) -> None:
    written = a_checkpoint(7)
    checkpoints = kept(blobs)
    told = checkpoints.write(written)
    found = checkpoints.latest()
    assert found is not None
    assert (found.expert, found.place, found.step) == ("base", 0, 7)
    assert (found.position, found.values) == (written.position, written.values)
    assert found.tensors["weights"]["a"].equal(written.tensors["weights"]["a"])
    assert found.tensors["optimizer"]["state.0"].equal(written.tensors["optimizer"]["state.0"])
    assert told.size_bytes == sum(info.size_bytes for info in blobs.listing(""))


def test_an_empty_store_has_no_latest(blobs: BlobStore) -> None:
    assert kept(blobs).latest() is None


def test_older_ones_go_by_count(blobs: BlobStore) -> None:
    checkpoints = kept(blobs, keep=2)
    for step in (5, 10, 15):
        checkpoints.write(a_checkpoint(step))
    assert names(blobs) == {"0-base/0000000010", "0-base/0000000015"}


def test_each_expert_keeps_its_own(blobs: BlobStore) -> None:
    checkpoints = kept(blobs, keep=1)
    checkpoints.write(a_checkpoint(20))
    for step in (5, 10):
        checkpoints.write(a_checkpoint(step, expert="refiner"))
    assert (latest_step(checkpoints), latest_step(checkpoints, "base")) == (10, 20)


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_one_is_passed_over_and_told(blobs: BlobStore, file: str) -> None:
    told: list[tuple[str, str]] = []
    checkpoints = Checkpoints(blobs, spec=SPEC, keep=2, warn=lambda *some: told.append(some))
    checkpoints.write(a_checkpoint(5))
    checkpoints.write(a_checkpoint(10))
    damage(blobs, f"0-base/0000000010/{file}")
    assert latest_step(checkpoints) == 5
    assert [reason for reason, _ in told] == ["CHECKPOINT_PASSED_OVER"]
    assert "0-base/0000000010" in told[0][1]


@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json"])
def test_a_half_one_is_passed_over(blobs: BlobStore, file: str) -> None:
    checkpoints = kept(blobs)
    checkpoints.write(a_checkpoint(5))
    checkpoints.write(a_checkpoint(10))
    blobs.delete(f"0-base/0000000010/{file}")
    assert latest_step(checkpoints) == 5


def test_what_was_passed_over_does_not_count_as_kept(blobs: BlobStore) -> None:
    checkpoints = kept(blobs, keep=1)
    checkpoints.write(a_checkpoint(10))
    blobs.put("0-base/0000000015/weights.safetensors", [b"half"])
    checkpoints.write(a_checkpoint(11))
    assert names(blobs) == {"0-base/0000000011"}


def test_checkpoints_of_another_spec_are_refused(blobs: BlobStore) -> None:
    kept(blobs).write(a_checkpoint(5))
    with pytest.raises(ResumeMismatch) as caught:
        kept(blobs, spec=Digest.of_bytes(b"other")).latest()
    assert caught.value.written_for == str(SPEC)


def test_a_full_disk_keeps_the_one_before(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    checkpoints = kept(blobs, keep=1)
    checkpoints.write(a_checkpoint(5))
    with files_no_larger_than(40_000), pytest.raises(StoreFull):
        checkpoints.write(a_checkpoint(10, size=100_000))
    assert latest_step(checkpoints) == 5
    assert names(blobs) == {"0-base/0000000005"}


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(LocalBlobs):
        @override
        def put(self, key: str, pieces: Iterable[bytes]) -> int:
            if key.endswith("manifest.json"):
                raise KeyboardInterrupt
            return super().put(key, pieces)

    kept(LocalBlobs(tmp_path)).write(a_checkpoint(5))
    with pytest.raises(KeyboardInterrupt):
        kept(Interrupted(tmp_path)).write(a_checkpoint(10))
    assert names(LocalBlobs(tmp_path)) == {"0-base/0000000005"}


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.mark.parametrize("kind", ["reset", "lost"])
@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json"])
def test_a_bucket_that_goes_away_while_one_is_written_keeps_the_one_before(
    kind: str, file: str, s3_url: str
) -> None:
    s3_bucket(s3_url)
    prefix = f"test-{uuid.uuid4().hex}"
    with faulty_proxy(s3_url) as proxy:
        blobs = S3Blobs(s3_bucket(proxy.url).store, prefix=prefix)
        kept(blobs).write(a_checkpoint(5))
        proxy.cause(Fault(method="PUT", path=file, kind=kind, num_times=9))
        proxy.cause(Fault(method="DELETE", kind=kind, num_times=99))
        with pytest.raises(SourceUnavailable):
            kept(blobs).write(a_checkpoint(10))
        proxy.forget()
        assert latest_step(kept(blobs)) == 5
        kept(blobs).write(a_checkpoint(10))
        assert latest_step(kept(blobs)) == 10

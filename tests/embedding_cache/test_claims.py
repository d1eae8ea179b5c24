"""Claims share work: one owner at a time, dropped with its process, lost when not renewed."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from diptych.embedding_cache.claims import (
    Claims,
    LocalClaims,
    NoClaims,
    RefClaims,
    open_claims,
    sweep_claims,
)
from diptych.embeddings.packs import Packs
from diptych.embeddings.tiers import StoreConfig
from diptych.errors import SourceUnavailable
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryRefs
from diptych.storage.refs import Ref, RefStore
from diptych.storage.s3_blobs import S3Refs
from support.buckets import s3_bucket, s3_server

HOLDER = """
import sys
from pathlib import Path
from diptych.embedding_cache.claims import LocalClaims
claim = LocalClaims(Path(sys.argv[1])).take("shard")
print(claim is not None, flush=True)
sys.stdin.readline()
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SilentRefs(MemoryRefs):
    @override
    def read(self, key: str) -> Ref | None:
        raise SourceUnavailable("refs", f"nothing says what {key} is")


def over(refs: RefStore, clock: Clock | None = None) -> RefClaims:
    return RefClaims(refs, folder="claims/data", expiry_s=60.0, clock=clock or Clock())


@pytest.fixture(params=["local", "refs", "s3"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Claims, Claims]]:
    """Return the claims of two processes on the same work."""
    if request.param == "local":
        yield LocalClaims(tmp_path), LocalClaims(tmp_path)
        return
    if request.param == "refs":
        refs: list[RefStore] = [MemoryRefs()] * 2
        both = over(refs[0]), over(refs[1])
        yield both
        for one in both:
            one.close()
        return
    with s3_server() as url:
        store, prefix = s3_bucket(url).store, f"test-{uuid.uuid4().hex}"
        both = over(S3Refs(store, prefix=prefix)), over(S3Refs(store, prefix=prefix))
        yield both
        for one in both:
            one.close()


def test_work_has_one_owner_at_a_time(two: tuple[Claims, Claims]) -> None:
    one, other = two
    first = one.take("shard")
    assert first is not None
    assert other.take("shard") is None
    assert one.take("shard") is None
    assert other.take("another") is not None
    first.release()
    assert other.take("shard") is not None


def test_claim_tells_whether_it_was_claimed_before(two: tuple[Claims, Claims]) -> None:
    one, other = two
    with one.take("shard") or pytest.fail("it is free") as first:
        assert first.is_first
    with other.take("shard") or pytest.fail("it is free") as second:
        assert not second.is_first


def test_killed_process_has_no_claims(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        claims = LocalClaims(tmp_path)
        assert claims.take("shard") is None
        holder.kill()
        holder.wait()
    claim = claims.take("shard")
    assert claim is not None
    assert not claim.is_first


def test_folder_that_cannot_be_written_leaves_work_unshared(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    claims = LocalClaims(tmp_path / "file" / "claims")
    assert claims.take("shard") is not None
    assert claims.take("shard") is not None


def test_claim_that_is_not_renewed_is_taken(tmp_path: Path) -> None:
    refs, clock = MemoryRefs(), Clock()
    dead, alive = over(refs), over(refs, clock)
    assert dead.take("shard") is not None
    assert alive.take("shard") is None
    clock.now_s = 59.0
    assert alive.take("shard") is None
    clock.now_s = 60.0
    assert alive.take("shard") is not None
    dead.renew()
    assert dead.take("shard") is None
    for one in (dead, alive):
        one.close()


def test_claim_that_is_renewed_stays() -> None:
    refs, clock = MemoryRefs(), Clock()
    owner, other = over(refs), over(refs, clock)
    assert owner.take("shard") is not None
    assert other.take("shard") is None
    owner.renew()
    clock.now_s = 60.0
    assert other.take("shard") is None
    for one in (owner, other):
        one.close()


def test_closing_releases_what_is_held() -> None:
    refs = MemoryRefs()
    owner, other = over(refs), over(refs)
    assert owner.take("shard") is not None
    owner.close()
    assert other.take("shard") is not None
    other.close()


def test_store_that_does_not_answer_leaves_work_unshared() -> None:
    claims = over(SilentRefs())
    assert claims.take("shard") is not None
    claims.close()


def test_claims_lie_beside_the_packs_that_last(tmp_path: Path) -> None:
    claims = open_claims(StoreConfig(folder=tmp_path, namespace="someone"), "data")
    assert claims.take("shard") is not None
    assert (tmp_path / "someone" / "claims" / "data" / "shard").is_file()


def test_memory_alone_has_nothing_to_share() -> None:
    claims = open_claims(StoreConfig(), "data")
    assert isinstance(claims, NoClaims)
    assert claims.take("shard") is not None
    assert claims.take("shard") is not None


def test_what_claims_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    claim = open_claims(StoreConfig(folder=tmp_path), "data").take("shard")
    assert claim is not None
    claim.release()
    packs = Packs(LocalBlobs(tmp_path), namespace="default")
    assert sweep_claims(packs) == 0
    assert sweep_claims(packs, older_than_s=-5.0) == 1
    assert list(packs.blobs.listing("default/claims/")) == []

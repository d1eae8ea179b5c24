"""A disk tier stays within its bytes, hands out right bytes only, and spares what is held."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from diptych.digest import Digest
from diptych.errors import BlobCorrupt, BlobNotFound, SourceUnavailable, StoreFull
from diptych.storage.cas import ContentStore
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryBlobs
from diptych.storage.s3_blobs import S3Blobs
from diptych.storage.tiers import DirectFiles, DiskTier, TierStats, open_files
from support import file_holder
from support.buckets import Bucket
from support.faulty_proxy import Fault, FaultyProxy

LIMIT_BYTES = 1000


class CountedBlobs(MemoryBlobs):
    """Counts what is read, and may be told to wait for a sign first or to break off."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0
        self.go = threading.Event()
        self.go.set()
        self.is_broken = False

    @override
    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        self.num_reads += 1
        self.go.wait()
        for piece in super().read(key, start=start, size_bytes=size_bytes):
            if self.is_broken:
                raise SourceUnavailable(self.location, "the line went dead")
            yield piece


@pytest.fixture
def blobs() -> CountedBlobs:
    return CountedBlobs()


@pytest.fixture
def content(blobs: CountedBlobs) -> ContentStore:
    return ContentStore(blobs, namespace="default")


@pytest.fixture
def tier(tmp_path: Path) -> DiskTier:
    return DiskTier(tmp_path / "tier", limit_bytes=LIMIT_BYTES)


def put(content: ContentStore, *sizes: int) -> list[Digest]:
    return [content.put_bytes(bytes([number]) * size) for number, size in enumerate(sizes)]


def held_once(tier: DiskTier, content: ContentStore, *digests: Digest) -> None:
    for digest in digests:
        with tier.hold(digest, content):
            pass


def test_a_held_file_has_the_bytes(tier: DiskTier, content: ContentStore) -> None:
    (digest,) = put(content, 300)
    with tier.hold(digest, content) as path:
        assert path.read_bytes() == bytes(300)


def test_fetches_once(tier: DiskTier, content: ContentStore, blobs: CountedBlobs) -> None:
    (digest,) = put(content, 300)
    held_once(tier, content, digest, digest)
    assert blobs.num_reads == 1
    assert tier.stats() == TierStats(num_hits=1, num_misses=1, num_held=1, size_bytes=300)


def test_fetches_once_for_all_who_wait(
    tier: DiskTier, content: ContentStore, blobs: CountedBlobs
) -> None:
    (digest,) = put(content, 300)
    blobs.go.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(held_once, tier, content, digest) for _ in range(4)]
        blobs.go.set()
        for done in waiting:
            done.result()
    assert blobs.num_reads == 1


def test_another_process_finds_what_was_fetched(
    tier: DiskTier, content: ContentStore, blobs: CountedBlobs, tmp_path: Path
) -> None:
    (digest,) = put(content, 300)
    held_once(tier, content, digest)
    held_once(DiskTier(tmp_path / "tier", limit_bytes=LIMIT_BYTES), content, digest)
    assert blobs.num_reads == 1


def test_what_was_held_longest_ago_goes_first(tier: DiskTier, content: ContentStore) -> None:
    first, second, third = put(content, 400, 400, 400)
    held_once(tier, content, first, second, first, third)
    assert [tier.has(digest, content) for digest in (first, second, third)] == [True, False, True]
    assert tier.stats().num_evictions == 1


def test_what_is_held_stays(tier: DiskTier, content: ContentStore) -> None:
    first, second, third = put(content, 400, 400, 400)
    with tier.hold(first, content) as path:
        held_once(tier, content, second, third)
        assert path.read_bytes() == bytes(400)
    assert not tier.has(second, content)


def test_is_full_when_all_of_it_is_held(tier: DiskTier, content: ContentStore) -> None:
    first, second, third = put(content, 400, 400, 400)
    with (
        tier.hold(first, content),
        tier.hold(second, content),
        pytest.raises(StoreFull, match="no room for 400 bytes"),
    ):
        held_once(tier, content, third)
    held_once(tier, content, third)


def test_is_full_for_what_is_larger_than_it(tier: DiskTier, content: ContentStore) -> None:
    small, large = put(content, 400, LIMIT_BYTES + 1)
    held_once(tier, content, small)
    with pytest.raises(StoreFull):
        held_once(tier, content, large)
    assert tier.has(small, content)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield another process that holds a file of 400 zeros of the same tier."""
    source = ContentStore(LocalBlobs(tmp_path / "blobs"), namespace="default")
    (digest,) = put(source, 400)
    folders = [str(tmp_path / "tier"), str(tmp_path / "blobs")]
    program = [sys.executable, file_holder.__file__, *folders, digest.hex, str(LIMIT_BYTES)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        yield process
        process.kill()


def test_what_another_process_holds_stays_until_it_dies(
    holder: "subprocess.Popen[bytes]", tier: DiskTier, content: ContentStore
) -> None:
    held, other, large = put(content, 400, 500, 700)
    held_once(tier, content, other)
    with pytest.raises(StoreFull):
        held_once(tier, content, large)
    assert tier.has(held, content)
    holder.kill()
    holder.wait()
    held_once(tier, content, large)
    assert not tier.has(held, content)


def test_a_fetch_that_breaks_leaves_nothing(
    tier: DiskTier, content: ContentStore, blobs: CountedBlobs
) -> None:
    (digest,) = put(content, 300)
    blobs.is_broken = True
    with pytest.raises(SourceUnavailable):
        held_once(tier, content, digest)
    assert tier.stats().size_bytes == 0
    blobs.is_broken = False
    held_once(tier, content, digest)


def test_what_is_being_fetched_takes_its_place(
    tier: DiskTier, content: ContentStore, blobs: CountedBlobs
) -> None:
    first, second = put(content, 600, 600)
    blobs.go.clear()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(held_once, tier, content, first)
        while not blobs.num_reads:
            threading.Event().wait(0.001)
        with pytest.raises(StoreFull):
            held_once(tier, content, second)
        blobs.go.set()
        fetching.result()


def test_fetches_again_what_was_damaged_here(
    tier: DiskTier, content: ContentStore, blobs: CountedBlobs
) -> None:
    (digest,) = put(content, 300)
    with tier.hold(digest, content) as path:
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    with tier.hold(digest, content) as path:
        assert path.read_bytes() == bytes(300)
    assert blobs.num_reads == 2


def test_what_is_corrupt_at_its_source_never_arrives(
    tier: DiskTier, content: ContentStore, blobs: CountedBlobs
) -> None:
    (digest,) = put(content, 300)
    blobs.put(content.key(digest), [b"other"])
    with pytest.raises(BlobCorrupt):
        held_once(tier, content, digest)
    assert tier.stats().size_bytes == 0


def test_what_is_nowhere_is_not_found(tier: DiskTier, content: ContentStore) -> None:
    with pytest.raises(BlobNotFound):
        held_once(tier, content, Digest.of_bytes(b"nowhere"))


def test_a_cached_file_needs_no_source(
    tier: DiskTier, bucket: Bucket, proxied: Bucket, proxy: FaultyProxy, prefix: str
) -> None:
    del bucket
    content = ContentStore(S3Blobs(proxied.store, prefix=prefix), namespace="default")
    (digest,) = put(content, 300)
    held_once(tier, content, digest)
    proxy.cause(*(Fault(method=method, kind="reset", num_times=9) for method in ("GET", "HEAD")))
    held_once(tier, content, digest)
    assert tier.stats().num_hits == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30))
def test_never_holds_more_than_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, uses: list[tuple[int, bool]]
) -> None:
    tier = DiskTier(tmp_path_factory.mktemp("tier"), limit_bytes=LIMIT_BYTES)
    content = ContentStore(MemoryBlobs(), namespace="default")
    digests = put(content, *range(50, 550, 50))
    with ExitStack() as held:
        for number, is_kept in uses:
            try:
                path = held.enter_context(tier.hold(digests[number], content))
            except StoreFull:
                held.close()
                continue
            assert path.stat().st_size == 50 * (number + 1)
            if not is_kept:
                held.close()
            assert tier.stats().size_bytes <= LIMIT_BYTES


def test_files_of_a_local_store_are_its_own(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    content = ContentStore(blobs, namespace="default")
    (digest,) = put(content, 300)
    files = open_files(blobs, cache_dir=tmp_path / "tier", limit_bytes=1)
    with files.hold(digest, content) as path:
        assert path == blobs.local_path(content.key(digest))
    assert files.has(digest, content)
    assert files.stats() == TierStats()
    assert not (tmp_path / "tier").exists()


def test_files_of_another_store_are_cached(tmp_path: Path, content: ContentStore) -> None:
    (digest,) = put(content, 300)
    files = open_files(content.blobs, cache_dir=tmp_path / "tier", limit_bytes=300)
    with files.hold(digest, content) as path:
        assert path.parent == tmp_path / "tier"


def test_a_damaged_file_of_a_local_store_is_corrupt(tmp_path: Path) -> None:
    content = ContentStore(LocalBlobs(tmp_path), namespace="default")
    (digest,) = put(content, 300)
    files = DirectFiles()
    with files.hold(digest, content) as path:
        path.chmod(0o644)
        path.write_bytes(bytes(299))
    with pytest.raises(BlobCorrupt), files.hold(digest, content):
        pass


def test_a_missing_file_of_a_local_store_is_not_found(tmp_path: Path) -> None:
    content = ContentStore(LocalBlobs(tmp_path), namespace="default")
    with (
        pytest.raises(BlobNotFound),
        DirectFiles().hold(Digest.of_bytes(b"nowhere"), content),
    ):
        pass

"""Blobs and refs in a bucket, over a network that fails."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import pytest

from diptych.digest import Digest
from diptych.errors import (
    BlobCorrupt,
    BlobNotFound,
    ObjectNotFound,
    SettingInvalid,
    SourceUnavailable,
    StoreFull,
)
from diptych.storage.cas import ContentStore
from diptych.storage.s3_blobs import S3Blobs, S3Refs
from support.buckets import Bucket
from support.faulty_proxy import Fault, FaultyProxy

DATA = bytes(range(256)) * 5000


@pytest.fixture
def blobs(proxied: Bucket, proxy: FaultyProxy, prefix: str) -> S3Blobs:
    """Return blobs behind the proxy."""
    del proxy
    return S3Blobs(proxied.store, prefix=prefix)


@pytest.fixture
def refs(proxied: Bucket, proxy: FaultyProxy, prefix: str) -> S3Refs:
    """Return refs behind the proxy."""
    del proxy
    return S3Refs(proxied.store, prefix=prefix)


@pytest.fixture
def in_parts(proxied: Bucket, proxy: FaultyProxy, prefix: str) -> S3Blobs:
    """Return blobs behind the proxy that upload in parts of 5 MiB, the least that S3 takes."""
    del proxy
    store = copy(proxied.store)
    store._config = replace(store._config, part_bytes=5 * 2**20)
    return S3Blobs(store, prefix=prefix)


def six_mib(*, is_broken: bool = False) -> Iterator[bytes]:
    yield from [bytes(2**20)] * 6
    if is_broken:
        raise InterruptedError


def test_is_called_by_its_bucket_and_prefix(blobs: S3Blobs, refs: S3Refs, prefix: str) -> None:
    assert blobs.location == refs.location == f"s3://adapters/{prefix}"


def test_has_no_files(blobs: S3Blobs) -> None:
    path: object = blobs.local_path("a")  # type: ignore[func-returns-value]
    assert path is None


@pytest.mark.parametrize("kind", ["500", "503", "reset"])
def test_a_put_that_fails_once_is_tried_again(
    blobs: S3Blobs, proxy: FaultyProxy, kind: str
) -> None:
    proxy.cause(Fault(method="PUT", kind=kind))
    blobs.put("a", [DATA])
    assert b"".join(blobs.read("a")) == DATA


@pytest.mark.parametrize("kind", ["500", "503", "reset"])
def test_a_put_that_keeps_failing_is_unavailable(
    blobs: S3Blobs, proxy: FaultyProxy, bucket: Bucket, prefix: str, kind: str
) -> None:
    proxy.cause(Fault(method="PUT", kind=kind, num_times=2))
    with pytest.raises(SourceUnavailable, match=rf"s3://adapters/{prefix}/a"):
        blobs.put("a", [DATA])
    assert bucket.keys(prefix) == []


def test_a_store_that_says_nothing_is_unavailable(blobs: S3Blobs, proxy: FaultyProxy) -> None:
    proxy.cause(Fault(method="HEAD", kind="stall", num_times=2))
    with pytest.raises(SourceUnavailable, match="Read timeout"):
        blobs.find("a")


def test_a_bucket_over_its_quota_is_full(blobs: S3Blobs, proxy: FaultyProxy) -> None:
    proxy.cause(Fault(method="PUT", kind="507", num_times=2))
    with pytest.raises(StoreFull):
        blobs.put("a", [DATA])


def test_a_read_that_breaks_off_goes_on_where_it_did(blobs: S3Blobs, proxy: FaultyProxy) -> None:
    blobs.put("a", [DATA])
    proxy.cause(Fault(method="GET", kind="cut", num_times=3))
    assert b"".join(blobs.read("a")) == DATA
    assert len([line for line in proxy.requests if line.startswith("GET")]) == 4


def test_a_read_that_gets_nowhere_is_unavailable(blobs: S3Blobs, proxy: FaultyProxy) -> None:
    blobs.put("a", [b"1"])
    proxy.cause(Fault(method="GET", kind="cut", num_times=2))
    with pytest.raises(SourceUnavailable):
        list(blobs.read("a"))


def test_a_bit_that_flips_on_its_way_is_found(blobs: S3Blobs, proxy: FaultyProxy) -> None:
    content = ContentStore(blobs, namespace="default")
    digest = content.put_bytes(DATA)
    proxy.cause(Fault(method="GET", kind="flip"))
    with pytest.raises(SourceUnavailable, match="damaged on its way"):
        content.read_bytes(digest)
    assert content.read_bytes(digest) == DATA


def test_a_bit_that_flipped_in_the_bucket_is_put_aside(
    blobs: S3Blobs, bucket: Bucket, prefix: str
) -> None:
    content = ContentStore(blobs, namespace="default")
    digest = Digest.of_bytes(DATA)
    blobs.put(content.key(digest), [DATA[:-1], b"!"])
    with pytest.raises(BlobCorrupt):
        content.read_bytes(digest)
    assert bucket.keys(prefix) == [f"default/quarantine/{digest.hex}"]


def test_a_large_blob_goes_in_parts(in_parts: S3Blobs, proxy: FaultyProxy) -> None:
    assert in_parts.put("a", six_mib()) == 6 * 2**20
    assert len([line for line in proxy.requests if "partNumber=" in line]) == 2
    assert sum(len(piece) for piece in in_parts.read("a")) == 6 * 2**20


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="PUT", path="partNumber=2", kind="500", num_times=2),
        Fault(method="POST", path="uploadId=", kind="reset", num_times=2),
    ],
    ids=lambda fault: fault.kind,
)
def test_an_upload_in_parts_that_fails_leaves_none(
    in_parts: S3Blobs, proxy: FaultyProxy, bucket: Bucket, fault: Fault
) -> None:
    proxy.cause(fault)
    with pytest.raises(SourceUnavailable):
        in_parts.put("a", six_mib())
    assert in_parts.find("a") is None
    assert bucket.num_uploads() == 0


def test_an_upload_in_parts_whose_source_breaks_leaves_none(
    in_parts: S3Blobs, bucket: Bucket
) -> None:
    with pytest.raises(InterruptedError):
        in_parts.put("a", six_mib(is_broken=True))
    assert in_parts.find("a") is None
    assert bucket.num_uploads() == 0


def test_a_bucket_that_is_not_there_is_not_found(bucket: Bucket) -> None:
    store = copy(bucket.store)
    store._bucket = "nowhere-at-all"
    with pytest.raises(BlobNotFound):
        list(S3Blobs(store, prefix="x").read("a"))
    with pytest.raises(ObjectNotFound):
        S3Refs(store, prefix="x").read("a")


def test_a_write_whose_answer_was_lost_has_won(refs: S3Refs, proxy: FaultyProxy) -> None:
    proxy.cause(Fault(method="PUT", kind="lost"))
    ref = refs.write("a", b"1", expected=None)
    assert ref is not None
    assert refs.read("a") == ref


def test_a_write_that_lost_while_its_answer_was_lost_has_lost(
    refs: S3Refs, proxy: FaultyProxy, bucket: Bucket, prefix: str
) -> None:
    S3Refs(bucket.store, prefix=prefix).write("a", b"1", expected=None)
    proxy.cause(Fault(method="PUT", kind="lost"))
    assert refs.write("a", b"1", expected=None) is None


def test_a_store_that_keeps_conditions_passes_the_check(refs: S3Refs) -> None:
    refs.check()
    refs.check()


def test_a_store_that_ignores_conditions_is_refused(
    proxied: Bucket, proxy: FaultyProxy, prefix: str
) -> None:
    proxy.cause(Fault(method="PUT", kind="careless", num_times=2))
    with pytest.raises(SettingInvalid, match="ignores If-None-Match"):
        S3Refs(proxied.store, prefix=prefix).check()


def test_an_empty_object_is_no_value(refs: S3Refs, bucket: Bucket, prefix: str) -> None:
    ref = refs.write("a", b"1", expected=None)
    assert ref is not None
    assert refs.delete("a", expected=ref.version)
    assert bucket.keys(prefix) == ["a"]
    assert refs.read("a") is None

"""A prefix of a real S3 server's bucket, and a network that fails."""

import sys
from collections.abc import Iterator

import pytest

from diptych.datasets.findings import Findings, Note
from diptych.datasets.source_spec import MetadataSpec, S3Source
from diptych.datasets.sources.s3_prefix import S3Prefix
from diptych.errors import (
    DatasetInvalid,
    ExtraMissing,
    ImageInvalid,
    ObjectNotFound,
    SourceUnavailable,
)
from support.buckets import BUCKET, Bucket, s3_bucket, s3_config, s3_server
from support.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from support.made_pictures import picture_bytes

ONE = picture_bytes(1, width=640, height=640)


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Bucket, FaultyProxy]]:
    with s3_server() as url, faulty_proxy(url) as proxy:
        bucket = s3_bucket(url)
        for key, data in {
            "in/a.png": ONE,
            "in/a.txt": b"of a",
            "in/sub/b.png": picture_bytes(2),
            "in/m.csv": b"file_name,text\na.png,row of a\n",
            "in/c.psd": b"",
            "in-other/d.png": picture_bytes(3),
        }.items():
            bucket.client.put_object(Bucket=BUCKET, Key=key, Body=data)
        yield bucket, proxy


@pytest.fixture
def opened(
    network: tuple[Bucket, FaultyProxy], note: Note, monkeypatch: pytest.MonkeyPatch
) -> S3Prefix:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    network[1].forget()
    spec = S3Source(bucket=BUCKET, prefix="in", metadata=MetadataSpec(path="m.csv"))
    return S3Prefix(spec, note=note, columns={"text"}, config=s3_config(network[1].url))


def test_pictures_below_the_prefix_are_listed(opened: S3Prefix, findings: Findings) -> None:
    items = list(opened.items())
    assert [item.place for item in items] == ["a.png", "sub/b.png"]
    assert opened.open(items[0]) == ONE
    assert items[0].row["text"] == "row of a"
    texts = [opened.text(items[0], ".txt", limit=4), opened.text(items[1], ".txt", limit=4)]
    assert texts == [b"of a", None]
    assert opened.text(items[0], ".words", limit=4) is None
    assert [(one.reason, one.place) for one in findings] == [("name_not_picture", "c.psd")]


@pytest.mark.parametrize("kind", ["500", "cut", "reset"])
def test_a_network_that_fails_once_is_asked_again(
    opened: S3Prefix, network: tuple[Bucket, FaultyProxy], kind: str
) -> None:
    item = next(opened.items())
    network[1].cause(Fault(method="GET", kind=kind, path="a.png"))
    assert opened.open(item) == ONE


@pytest.mark.parametrize("kind", ["500", "stall"])
def test_a_network_that_goes_on_failing_is_unavailable(
    opened: S3Prefix, network: tuple[Bucket, FaultyProxy], kind: str
) -> None:
    item = next(opened.items())
    network[1].cause(Fault(method="GET", kind=kind, path="a.png", num_times=9))
    with pytest.raises(SourceUnavailable):
        opened.open(item)


def test_an_object_that_went_is_not_found(
    opened: S3Prefix, network: tuple[Bucket, FaultyProxy]
) -> None:
    network[0].client.put_object(Bucket=BUCKET, Key="in/z.png", Body=b"x")
    *_, last = opened.items()
    network[0].client.delete_object(Bucket=BUCKET, Key="in/z.png")
    with pytest.raises(ObjectNotFound):
        opened.open(last)


def test_an_object_beyond_the_limit_is_refused(
    opened: S3Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = next(opened.items())
    monkeypatch.setattr("diptych.datasets.sources.s3_prefix.MAX_IMAGE_BYTES", 100)
    with pytest.raises(ImageInvalid, match="more than 100 bytes"):
        opened.open(item)


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (S3Source(bucket="none-such"), ObjectNotFound),
        (S3Source(bucket=BUCKET, prefix="empty/"), DatasetInvalid),
        (S3Source(bucket=BUCKET, prefix="in", metadata=MetadataSpec(path="n.csv")), DatasetInvalid),
    ],
)
def test_what_is_not_there_is_refused(
    network: tuple[Bucket, FaultyProxy], note: Note, spec: S3Source, error: type[Exception]
) -> None:
    with pytest.raises(error):
        list(S3Prefix(spec, note=note, config=s3_config(network[1].url)).items())


def test_without_boto3_the_extra_is_named(note: Note, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diptych.storage.s3", None)
    with pytest.raises(ExtraMissing, match=r"diptych\[cache\]"):
        S3Prefix(S3Source(bucket=BUCKET), note=note)

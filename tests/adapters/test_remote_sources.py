"""A bucket, a hub and a web server offer files, over a network that may fail."""

import logging
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLContext

import pytest

from diptych.adapters.remote_sources import from_bucket, from_hub, from_web
from diptych.errors import (
    AdapterInvalid,
    AdapterNotFound,
    InvalidRequest,
    SourceUnavailable,
)
from support.buckets import BUCKET, Bucket, s3_bucket, s3_server
from support.hub import COMMIT, Hub, certified, hub

DATA = bytes(range(256)) * 1000
URI = "hf://owner/name"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as url:
        made = s3_bucket(url)
        for key in ("one/a.safetensors", "one/unet/b.safetensors", "c.safetensors"):
            made.client.put_object(Bucket=BUCKET, Key=key, Body=DATA)
        yield made


@pytest.fixture
def running() -> Iterator[Hub]:
    with hub() as made:
        made.files = {"a.safetensors": DATA, "deep/b.safetensors": b"b", "deep/c.bin": b"c"}
        yield made


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Hub, SSLContext]]:
    server, client = certified(tmp_path)
    with hub(server) as made:
        made.files = {"a.safetensors": DATA}
        yield made, client


def offered(running: Hub, path: str = "", uri: str = URI) -> dict[str, bytes]:
    endpoint = f"http://{running.address}"
    _, offers = from_hub(uri, "owner/name", path, revision="main", endpoint=endpoint)
    return {offer.name: b"".join(offer.read()) for offer in offers}


def from_server(web: tuple[Hub, SSLContext], path: str, *more_hosts: str) -> bytes:
    running, client = web
    hosts = frozenset({running.address, *more_hosts})
    (offer,) = from_web(f"https://{running.address}{path}", hosts=hosts, context=client)
    return b"".join(offer.read())


def test_a_bucket_offers_an_object(bucket: Bucket) -> None:
    (offer,) = from_bucket("s3", bucket.store, "one/a.safetensors")
    assert (offer.name, offer.size_bytes) == ("a.safetensors", len(DATA))
    assert b"".join(offer.read()) == DATA


@pytest.mark.parametrize(
    ("key", "names"),
    [("one/", ["a.safetensors", "unet/b.safetensors"]), ("c.safetensors", ["c.safetensors"])],
)
def test_names_are_those_within_the_folder(bucket: Bucket, key: str, names: list[str]) -> None:
    assert [offer.name for offer in from_bucket("s3", bucket.store, key)] == names


def test_an_object_that_is_not_there_is_not_found(bucket: Bucket) -> None:
    with pytest.raises(AdapterNotFound):
        from_bucket("s3://adapters/none", bucket.store, "none")


def test_a_prefix_of_too_many_objects_is_no_adapter(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.adapters.remote_sources._MAX_LISTED", 2)
    with pytest.raises(AdapterInvalid, match="more than 2 objects"):
        from_bucket("s3", bucket.store, "")


def test_a_hub_offers_what_a_repository_holds(running: Hub) -> None:
    assert offered(running)["a.safetensors"] == DATA


def test_a_hub_offers_what_a_folder_holds(running: Hub) -> None:
    assert offered(running, "deep") == {"b.safetensors": b"b", "c.bin": b"c"}


def test_a_hub_offers_one_file(running: Hub) -> None:
    assert offered(running, "deep/b.safetensors") == {"b.safetensors": b"b"}


def test_a_hub_says_the_commit_of_a_revision(
    running: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = f"http://{running.address}"
    with caplog.at_level(logging.INFO, logger="diptych"):
        commit, _ = from_hub(URI, "owner/name", "", revision="main", endpoint=endpoint)
    assert commit == COMMIT
    assert f"owner/name revision main is commit {COMMIT}" in caplog.text


def test_files_are_read_at_the_commit(running: Hub) -> None:
    offered(running, "a.safetensors")
    assert running.paths[-1] == f"/owner/name/resolve/{COMMIT}/a.safetensors"


def test_a_repository_that_is_not_there_is_not_found(running: Hub) -> None:
    endpoint = f"http://{running.address}"
    with pytest.raises(AdapterNotFound):
        from_hub("hf://owner/other", "owner/other", "", revision="main", endpoint=endpoint)


def test_a_hub_that_fails_is_unavailable(running: Hub) -> None:
    running.status = 500
    with pytest.raises(SourceUnavailable, match="the hub answers with status 500"):
        offered(running)


def test_a_hub_that_does_not_answer_is_unavailable(free_port: int) -> None:
    endpoint = f"http://127.0.0.1:{free_port}"
    with pytest.raises(SourceUnavailable, match="does not answer"):
        from_hub(URI, "owner/name", "", revision="main", endpoint=endpoint)


def test_a_web_server_offers_a_file(web: tuple[Hub, SSLContext]) -> None:
    assert from_server(web, "/a.safetensors") == DATA


def test_a_redirect_within_the_servers_is_followed(web: tuple[Hub, SSLContext]) -> None:
    web[0].redirects["/old.safetensors"] = "/a.safetensors"
    assert from_server(web, "/old.safetensors") == DATA


@pytest.mark.parametrize(
    "location", ["https://169.254.169.254/latest", "http://127.0.0.1/x", "file:///etc/passwd"]
)
def test_a_redirect_elsewhere_is_refused(web: tuple[Hub, SSLContext], location: str) -> None:
    web[0].redirects["/old.safetensors"] = location
    with pytest.raises(InvalidRequest, match="is not among the servers that may be asked"):
        from_server(web, "/old.safetensors")


def test_redirects_without_end_are_refused(web: tuple[Hub, SSLContext]) -> None:
    web[0].redirects["/old.safetensors"] = "/old.safetensors"
    with pytest.raises(SourceUnavailable, match="redirects more than 5 times"):
        from_server(web, "/old.safetensors")


def test_a_page_that_is_not_there_is_not_found(web: tuple[Hub, SSLContext]) -> None:
    with pytest.raises(AdapterNotFound):
        from_server(web, "/none.safetensors")


def test_a_web_server_that_fails_is_unavailable(web: tuple[Hub, SSLContext]) -> None:
    web[0].status = 503
    with pytest.raises(SourceUnavailable, match="answers with status 503"):
        from_server(web, "/a.safetensors")


def test_a_web_server_without_a_trusted_certificate_is_unavailable(
    web: tuple[Hub, SSLContext],
) -> None:
    hosts = frozenset({web[0].address})
    (offer,) = from_web(f"https://{web[0].address}/a.safetensors", hosts=hosts)
    with pytest.raises(SourceUnavailable, match="SSLCertVerificationError"):
        b"".join(offer.read())


@pytest.mark.parametrize(
    "uri", ["https://elsewhere/a.safetensors", "https://[", "https://x@here/", "http://here/"]
)
def test_other_servers_are_not_asked(uri: str) -> None:
    with pytest.raises(InvalidRequest):
        from_web(uri, hosts=frozenset({"here"}))

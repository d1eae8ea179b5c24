"""Downloads from servers that behave and servers that do not."""

import pytest

from diptych.datasets.sources.web import FetchConfig, fetch
from diptych.errors import ImageInvalid, ObjectNotFound, SourceUnavailable
from support.web_server import WebServer

CONFIG = FetchConfig(max_bytes=1000, timeout_s=0.5, num_attempts=2, pause_s=0.0)


def test_what_a_url_answers_is_returned(web: WebServer) -> None:
    web.content["/a.png"] = b"bytes"
    assert fetch(f"{web.url}/a.png", CONFIG) == b"bytes"


def test_a_redirect_is_followed(web: WebServer) -> None:
    web.content["/a.png"] = b"bytes"
    assert fetch(f"{web.url}/redirect/{web.url}/a.png", CONFIG) == b"bytes"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(web: WebServer, status: int) -> None:
    web.content["/a.png"] = b"bytes"
    assert fetch(f"{web.url}/once/{status}/a.png", CONFIG) == b"bytes"


def test_pauses_between_attempts_grow(web: WebServer) -> None:
    pauses: list[float] = []
    config = FetchConfig(max_bytes=9, timeout_s=1.0, num_attempts=4, pause_s=0.5)
    with pytest.raises(SourceUnavailable, match="status 500"):
        fetch(f"{web.url}/status/500", config, sleep=pauses.append)
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("path", "error", "num_asked"),
    [
        ("/status/404", ObjectNotFound, 1),
        ("/status/410", ObjectNotFound, 1),
        ("/status/403", SourceUnavailable, 1),
        ("/status/500", SourceUnavailable, 2),
        ("/slow/a", SourceUnavailable, 2),
        ("/reset/a", SourceUnavailable, 2),
        ("/cut/a", SourceUnavailable, 2),
        ("/endless/a", ImageInvalid, 1),
        ("/large", ImageInvalid, 1),
    ],
)
def test_a_download_that_fails_says_how(
    web: WebServer, path: str, error: type[Exception], num_asked: int
) -> None:
    web.content["/large"] = bytes(1001)
    with pytest.raises(error):
        fetch(web.url + path, CONFIG)
    assert len(web.asked) == num_asked


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/a", "/etc/passwd", "http://[", "http://a:b/"]
)
def test_only_urls_of_the_web_are_fetched(url: str) -> None:
    with pytest.raises(ImageInvalid):
        fetch(url, CONFIG)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_a_redirect_does_not_leave_the_web(web: WebServer, target: str) -> None:
    with pytest.raises(SourceUnavailable):
        fetch(f"{web.url}/redirect/{target}", CONFIG)


def test_a_server_that_is_not_there_is_unavailable(free_port: int) -> None:
    with pytest.raises(SourceUnavailable, match="refused"):
        fetch(f"http://127.0.0.1:{free_port}/a", CONFIG)

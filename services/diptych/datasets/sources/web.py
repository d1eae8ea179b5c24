"""One file fetched over HTTP: whole, in time, no larger than allowed."""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from diptych.errors import ImageInvalid, ObjectNotFound, SourceUnavailable

__all__ = ["FetchConfig", "fetch"]

_PIECE_BYTES: Final = 2**16
_GONE: Final = frozenset({404, 410})
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which another attempt may help."""
_AGENT: Final = {"User-Agent": "diptych-datasets/1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Limits of one download."""

    max_bytes: int
    timeout_s: float
    """In which an attempt must be whole."""
    num_attempts: int = 3
    pause_s: float = 0.5
    """Before the second attempt; doubled before each further one."""


def _http_only() -> OpenerDirector:
    """Return what follows redirects to http and https, which is fewer than urllib's own does."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        HTTPRedirectHandler(),
        HTTPErrorProcessor(),
        UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER: Final = _http_only()


def fetch(url: str, config: FetchConfig, *, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """Return what a url answers.

    Raises:
        ImageInvalid: It is no http(s) url, or answers with more than is allowed.
        ObjectNotFound: It says that there is no such thing.
        SourceUnavailable: It refuses, or no attempt was whole in time.
    """
    if not url.startswith(("http://", "https://")):
        raise ImageInvalid(url[:200], "is no http or https url")
    problem = ""
    for attempt in range(config.num_attempts):
        if attempt:
            sleep(config.pause_s * 2 ** (attempt - 1))
        try:
            return _attempt(url, config)
        except HTTPError as error:
            with error:
                problem = f"status {error.code}"
            if error.code in _GONE:
                raise ObjectNotFound(url[:200]) from error
            if error.code not in _LATER:
                break
        except (http.client.InvalidURL, ValueError) as error:
            raise ImageInvalid(url[:200], f"cannot be asked for: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", "")) or str(error) or type(error).__name__
    raise SourceUnavailable(url[:200], problem[:200])


def _attempt(url: str, config: FetchConfig) -> bytes:
    end = time.monotonic() + config.timeout_s
    request = Request(url, headers=_AGENT)  # noqa: S310 - its scheme was looked at
    with _OPENER.open(request, timeout=config.timeout_s) as answer:
        announced = answer.headers.get("Content-Length") or "0"
        if announced.isdigit() and int(announced) > config.max_bytes:
            raise ImageInvalid(url[:200], f"{announced} bytes, the limit is {config.max_bytes}")
        data = bytearray()
        while piece := answer.read1(_PIECE_BYTES):
            data += piece
            if len(data) > config.max_bytes:
                raise ImageInvalid(url[:200], f"more than {config.max_bytes} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"not whole after {config.timeout_s:g} s")
    if announced.isdigit() and len(data) < int(announced):
        raise http.client.IncompleteRead(bytes(data), int(announced) - len(data))
    return bytes(data)

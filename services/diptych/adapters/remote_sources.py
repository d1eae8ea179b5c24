"""Files that a bucket, the Hugging Face hub or a web server offers; nothing is fetched yet."""

import http.client
import logging
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, InferenceTimeoutError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its stub lists fewer
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from diptych.adapters.offers import Offer
from diptych.errors import (
    AdapterInvalid,
    AdapterNotFound,
    FieldViolation,
    InvalidRequest,
    ObjectNotFound,
    SourceUnavailable,
)
from diptych.storage.base import StoredObject
from diptych.storage.s3 import S3Store

__all__ = ["from_bucket", "from_hub", "from_web"]

_log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 2**16
_CALL_TIMEOUT_S: Final = 10.0
"""For one answer's beginning and for each wait for more of it."""
_MAX_REDIRECTS: Final = 5
_MAX_LISTED: Final = 1000
_TRANSPORT_ERROR: Final[type[Exception]] = InferenceTimeoutError.__mro__[1]
"""The HTTP library's own error; releases of the hub differ in which library that is."""
_NOT_FOUND: Final = (401, 403, 404)
"""The hub says 401 of what it will not say exists."""


def from_bucket(uri: str, store: S3Store, key: str) -> list[Offer]:
    """Return an object, or what lies below a prefix that ends in a slash.

    Raises:
        AdapterNotFound: There is no such object.
        AdapterInvalid: Below the prefix are too many to be one adapter.
        SourceUnavailable: The store does not answer.
    """
    try:
        if key.endswith("/") or not key:
            listed = list(islice(store.scan(key), _MAX_LISTED + 1))
            if len(listed) > _MAX_LISTED:
                raise AdapterInvalid(uri, f"holds more than {_MAX_LISTED} objects; name one")
            return [_object(store, item, key) for item in listed]
        found = store.find(key)
    except ObjectNotFound as error:
        raise AdapterNotFound(uri) from error
    if found is None:
        raise AdapterNotFound(uri)
    return [_object(store, found, key[: key.rfind("/") + 1])]


def from_hub(
    uri: str, repository: str, path: str, *, revision: str, endpoint: str | None
) -> tuple[str, list[Offer]]:
    """Return a repository's commit and the file ``path`` of it, or what that folder holds.

    Raises:
        AdapterNotFound: No such repository, revision or path, or none that may be seen.
        SourceUnavailable: The hub does not answer.
    """
    with _hub_errors(uri, endpoint):
        info = HfApi(endpoint=endpoint).model_info(
            repository, revision=revision, files_metadata=True, timeout=_CALL_TIMEOUT_S
        )
    commit = info.sha or revision
    _log.info("hub repository %s revision %s is commit %s", repository, revision, commit)
    offers = []
    for item in info.siblings or ():
        is_file = item.rfilename == path
        if not is_file and path and not item.rfilename.startswith(f"{path}/"):
            continue
        name = PurePosixPath(path).name if is_file else item.rfilename.removeprefix(f"{path}/")
        url = hf_hub_url(repository, item.rfilename, revision=commit, endpoint=endpoint)
        offers.append(
            Offer(
                name=name,
                read=partial(_hub_pieces, uri, url, endpoint),
                size_bytes=item.size,
                sha256=item.lfs.sha256 if item.lfs else None,
            )
        )
    return commit, offers


def from_web(
    uri: str, *, hosts: frozenset[str], context: ssl.SSLContext | None = None
) -> list[Offer]:
    """Return the file at an https address of one of ``hosts``; redirects stay within them.

    Raises:
        InvalidRequest: It is at another server.
    """
    name = PurePosixPath(unquote(_allowed(uri, hosts).path)).name
    return [Offer(name=name, read=lambda: _web_pieces(uri, hosts, context))]


def _object(store: S3Store, item: StoredObject, prefix: str) -> Offer:
    read = partial(store.read, item.key)
    return Offer(name=item.key.removeprefix(prefix), read=read, size_bytes=item.size_bytes)


def _hub_pieces(uri: str, url: str, endpoint: str | None) -> Iterator[bytes]:
    with (
        _hub_errors(uri, endpoint),
        get_session().stream(
            "GET",
            url,
            headers=build_hf_headers(),
            follow_redirects=True,
            timeout=_CALL_TIMEOUT_S,
        ) as answer,
    ):
        hf_raise_for_status(answer)
        yield from answer.iter_bytes(_PIECE_BYTES)


@contextmanager
def _hub_errors(uri: str, endpoint: str | None) -> Iterator[None]:
    """Turn the hub's errors into this package's."""
    try:
        yield
    except HFValidationError as error:
        raise AdapterNotFound(uri) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _NOT_FOUND:
            raise AdapterNotFound(uri) from error
        raise SourceUnavailable(uri, f"the hub answers with status {status}") from error
    except (_TRANSPORT_ERROR, OSError) as error:
        where = endpoint or "huggingface.co"
        raise SourceUnavailable(uri, f"{where} does not answer: {type(error).__name__}") from error


def _web_pieces(uri: str, hosts: frozenset[str], context: ssl.SSLContext | None) -> Iterator[bytes]:
    url = uri
    try:
        for _ in range(_MAX_REDIRECTS):
            parts = _allowed(url, hosts)
            connection = http.client.HTTPSConnection(
                parts.netloc, timeout=_CALL_TIMEOUT_S, context=context
            )
            with closing(connection):
                target = parts._replace(scheme="", netloc="", fragment="").geturl()
                connection.request("GET", target or "/")
                answer = connection.getresponse()
                location = answer.headers.get("Location")
                if answer.status == http.client.OK:
                    yield from _all_of(uri, answer)
                    return
            if location is None or not 300 <= answer.status < 400:
                raise _refused(uri, answer.status)
            url = urljoin(url, location)
    except (OSError, http.client.HTTPException) as error:
        raise SourceUnavailable(uri, f"does not answer: {type(error).__name__}") from error
    raise SourceUnavailable(uri, f"redirects more than {_MAX_REDIRECTS} times")


def _allowed(url: str, hosts: frozenset[str]) -> SplitResult:
    description = "is no address"
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.netloc in hosts:
            return parts
        description = f"{parts.scheme}://{parts.netloc} is not among the servers that may be asked"
    raise InvalidRequest([FieldViolation(field="uri", description=description)])


def _all_of(uri: str, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read(_PIECE_BYTES):
        yield piece
    if answer.length:
        raise SourceUnavailable(uri, f"broke off {answer.length} bytes before its end")


def _refused(uri: str, status: int) -> AdapterNotFound | SourceUnavailable:
    if status in {404, 410}:
        return AdapterNotFound(uri)
    return SourceUnavailable(uri, f"answers with status {status}")

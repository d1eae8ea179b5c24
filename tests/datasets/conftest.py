"""Findings to note to, and what they say."""

from collections.abc import Iterator

import pytest

from diptych.datasets.findings import Findings, Note
from support.web_server import WebServer, web_server

__all__ = ["findings", "note", "web"]


@pytest.fixture
def findings() -> Findings:
    """Return findings that are empty."""
    return Findings()


@pytest.fixture
def note(findings: Findings) -> Note:
    """Return what notes to ``findings``."""
    return findings.of_dataset("one")


@pytest.fixture
def web() -> Iterator[WebServer]:
    """Yield a web server."""
    with web_server() as server:
        yield server

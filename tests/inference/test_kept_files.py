"""A file is held from the time it is brought until it is let go, whatever comes first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from diptych.digest import Digest
from diptych.errors import AdapterNotFound
from diptych.inference.kept_files import KeptFiles
from diptych.inference.trajectory import AdapterUse

DIGEST = Digest.of_bytes(b"a")
USE = AdapterUse(digest=str(DIGEST), name="a")


@dataclass
class Shelf:
    """Counts who holds a file; what is to be done is done when the test says so."""

    num_holders: int = 0
    is_gone: bool = False
    later: list[Callable[[], None]] = field(default_factory=list)

    @contextmanager
    def hold(self, digest: Digest, *, tenant: str) -> Iterator[Path]:
        if self.is_gone:
            raise AdapterNotFound(str(digest))
        assert (digest, tenant) == (DIGEST, "default")
        self.num_holders += 1
        yield Path("a")
        self.num_holders -= 1

    def work(self) -> None:
        while self.later:
            self.later.pop(0)()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def files(shelf: Shelf) -> KeptFiles:
    return KeptFiles(shelf.hold, shelf.later.append)


def test_a_file_is_held_until_it_is_let_go(shelf: Shelf, files: KeptFiles) -> None:
    files.keep(USE)
    files.keep(USE)
    shelf.work()
    assert shelf.num_holders == 1
    files.let_go(USE)
    files.let_go(USE)
    assert shelf.num_holders == 0


def test_one_let_go_before_it_came_is_not_held(shelf: Shelf, files: KeptFiles) -> None:
    files.keep(USE)
    files.let_go(USE)
    shelf.work()
    assert shelf.num_holders == 0


def test_closing_lets_all_go(shelf: Shelf, files: KeptFiles) -> None:
    files.keep(USE)
    shelf.work()
    files.close()
    assert shelf.num_holders == 0


def test_one_that_cannot_be_brought_is_left(shelf: Shelf, files: KeptFiles) -> None:
    shelf.is_gone = True
    files.keep(USE)
    shelf.work()
    assert shelf.num_holders == 0


def test_one_that_could_not_be_brought_is_tried_again(shelf: Shelf, files: KeptFiles) -> None:
    shelf.is_gone = True
    files.keep(USE)
    shelf.work()
    shelf.is_gone = False
    files.keep(USE)
    shelf.work()
    assert shelf.num_holders == 1

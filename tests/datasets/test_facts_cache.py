"""Facts kept on a disk: found while they hold, and never in the way."""

import sqlite3
from pathlib import Path

import pytest

from diptych.datasets.facts import Facts
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.sources.base import SourceItem
from diptych.digest import Digest
from diptych.errors import StoreFull

FACTS = Facts(
    digest=Digest.of_bytes(b"x"),
    width=3,
    height=4,
    format="PNG",
    problem="p",
    is_examined=True,
    damage="d",
    perceptual=2**64 - 1,
    oddities="o",
    num_frames=2,
)
ITEM = SourceItem(place="a.png", name="a", stamp="1")


def test_facts_are_found_again(tmp_path: Path) -> None:
    with FactsCache(tmp_path / "sub" / "facts") as cache:
        cache.keep("folder /x", [(ITEM, FACTS)])
    with FactsCache(tmp_path / "sub" / "facts") as cache:
        assert cache.find("folder /x", [ITEM], examine=True) == {"a.png": FACTS}


@pytest.mark.parametrize(
    ("source", "item"),
    [
        ("folder /y", ITEM),
        ("folder /x", SourceItem(place="b.png", name="b", stamp="1")),
        ("folder /x", SourceItem(place="a.png", name="a", stamp="2")),
        ("folder /x", SourceItem(place="a.png", name="a", stamp=None)),
    ],
)
def test_facts_of_other_or_changed_images_are_not(
    tmp_path: Path, source: str, item: SourceItem
) -> None:
    with FactsCache(tmp_path / "facts") as cache:
        cache.keep("folder /x", [(ITEM, FACTS)])
        assert cache.find(source, [item], examine=False) == {}


def test_facts_without_a_look_at_the_pixels_do_not_stand_for_ones_with(tmp_path: Path) -> None:
    plain = Facts(digest=Digest.of_bytes(b"x"), width=3, height=4)
    with FactsCache(tmp_path / "facts") as cache:
        cache.keep("s", [(ITEM, plain)])
        assert cache.find("s", [ITEM], examine=True) == {}
        assert cache.find("s", [ITEM], examine=False) == {"a.png": plain}


@pytest.mark.parametrize("content", [b"not a database at all" * 300, b""])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "facts").write_bytes(content)
    with FactsCache(tmp_path / "facts") as cache:
        cache.keep("s", [(ITEM, FACTS)])
        assert cache.find("s", [ITEM], examine=False) != {}


def test_a_file_that_was_cut_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    many = [(SourceItem(place=str(n), name="", stamp="1"), FACTS) for n in range(2000)]
    with FactsCache(path) as cache:
        cache.keep("s", many)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with FactsCache(path) as cache:
        cache.keep("s", many)
        assert len(cache.find("s", [item for item, _ in many], examine=False)) == 2000


def test_facts_of_another_version_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    with FactsCache(path) as cache:
        cache.keep("s", [(ITEM, FACTS)])
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 7")
    database.close()
    with FactsCache(path) as cache:
        assert cache.find("s", [ITEM], examine=False) == {}


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    other = SourceItem(place="b.png", name="b", stamp="1")
    with FactsCache(tmp_path / "facts") as one, FactsCache(tmp_path / "facts") as two:
        one.keep("s", [(ITEM, FACTS)])
        two.keep("s", [(other, FACTS)])
        assert set(one.find("s", [ITEM, other], examine=False)) == {"a.png", "b.png"}


def test_what_cannot_be_opened_is_not_taken_for_damage(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    with pytest.raises(OSError, match="unable to open"):
        FactsCache(tmp_path / "facts")


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    many = [(SourceItem(place=str(n), name="", stamp="1"), FACTS) for n in range(2000)]
    with FactsCache(tmp_path / "facts") as cache:
        cache._database.execute("PRAGMA max_page_count = 8")
        with pytest.raises(StoreFull):
            cache.keep("s", many)

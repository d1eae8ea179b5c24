"""Where a manifest may make a process read."""

from pathlib import Path

from diptych.datasets.places import EVERYWHERE, Places


def test_a_users_own_manifest_reads_anywhere() -> None:
    assert EVERYWHERE.allows_path(Path("/etc"))
    assert EVERYWHERE.allows_bucket("any", "where")


def test_a_path_stays_in_its_root(tmp_path: Path) -> None:
    places = Places(roots=(tmp_path / "in",))
    paths = [tmp_path / "in" / "a", tmp_path / "in" / ".." / "a", tmp_path / "inside"]
    assert [places.allows_path(path) for path in paths] == [True, False, False]


def test_a_link_out_of_a_root_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    assert not Places(roots=(tmp_path / "in",)).allows_path(tmp_path / "in" / "link" / "a")


def test_a_bucket_may_be_allowed_in_part() -> None:
    places = Places(buckets=("one", "two/pictures"))
    asked = [("one", ""), ("one", "x"), ("two", ""), ("two", "pictures/a"), ("two", "pictures-b/")]
    assert [places.allows_bucket(*one) for one in asked] == [True, True, False, True, False]


def test_an_endpoint_is_asked_only_where_it_is_named() -> None:
    places = Places(endpoints=("http://minio",))
    asked = (None, "http://minio", "http://elsewhere")
    assert [places.allows_endpoint(url) for url in asked] == [True, True, False]
    assert EVERYWHERE.allows_endpoint("http://elsewhere")

"""Homes in paths, also of users who are not there."""

from pathlib import Path

import pytest

from diptych.home_paths import at_home


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/x", Path.home() / "x"),
        ("a/~", Path("a/~")),
        ("~no-such-user/x", Path("~no-such-user/x")),
    ],
)
def test_a_home_is_written_out_where_there_is_one(text: str, path: Path) -> None:
    assert at_home(text) == path

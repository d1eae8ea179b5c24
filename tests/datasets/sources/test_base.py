"""What is shared by all sources."""

import pytest

from diptych.datasets.sources.base import stem_of


@pytest.mark.parametrize(
    ("place", "stem"),
    [
        ("a.png", "a"),
        ("a.b.png", "a.b"),
        ("x.y/a", "x.y/a"),
        ("x.y/a.png", "x.y/a"),
        ("x/.hidden", "x/.hidden"),
        ("", ""),
    ],
)
def test_a_stem_lacks_the_last_extension(place: str, stem: str) -> None:
    assert stem_of(place) == stem

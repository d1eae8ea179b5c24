"""Bytes that are no picture are called what they are."""

import pytest

from diptych.datasets.picture_kinds import describe_unread
from support.bad_pictures import HEIC, SVG


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (HEIC, "HEIC"),
        (SVG, "SVG"),
        (b"\xef\xbb\xbf  <SVG>", "SVG"),
        (b"\x00\x00\x00\x1cftypavif", "AVIF"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\x00\x01", "PSD"),
        (b"<html><body>404", "HTML"),
        (b"<note>", "no known format, beginning with 3c 6e 6f 74 65 3e"),
    ],
)
def test_names_what_it_is(data: bytes, name: str) -> None:
    assert describe_unread(data) == name

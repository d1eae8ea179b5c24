"""What bytes that are no picture we read turn out to be, by name."""

from typing import Final

__all__ = ["READ", "describe_unread"]

READ: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read. AVIF is not: its decoders turn one file into unlike pixels."""

_BRANDS: Final = {
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "camera raw",
}
"""Of ISO's container, which says it in bytes 8 to 12."""
_BEGINNINGS: Final = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "GZIP"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file"),
)
_MARKUP: Final = ((b"<svg", "SVG"), (b"<html", "HTML"), (b"<!doctype html", "HTML"))
_LOOKED_AT_BYTES: Final = 1024


def describe_unread(data: bytes) -> str:
    """Return what ``data`` is, of what people put beside pictures; else how it begins."""
    head = data[:_LOOKED_AT_BYTES]
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        for mark, name in _MARKUP:
            if mark in text:
                return name
    return f"no known format, beginning with {data[:8].hex(' ')}"

"""Images that are like others are told, and left out only where that is asked."""

from diptych.datasets.alike import without_alike
from diptych.datasets.facts import Facts
from diptych.datasets.findings import Findings
from diptych.datasets.reading import ReadImage
from diptych.datasets.sources.base import SourceItem
from diptych.datasets.spec import ChecksSpec
from diptych.digest import Digest


def known(
    place: str, content: bytes, *, width: int = 8, perceptual: int | None = None
) -> ReadImage:
    facts = Facts(digest=Digest.of_bytes(content), width=width, height=8, perceptual=perceptual)
    return ReadImage(SourceItem(place=place, name=place), facts)


IMAGES = [
    known("small", b"1", width=8, perceptual=0b0011),
    known("copy", b"1", width=8, perceptual=0b0011),
    known("large", b"2", width=16, perceptual=0b0111),
    known("other", b"3", perceptual=2**40 - 1),
    known("plain", b"4"),
]


def checked(checks: ChecksSpec) -> tuple[list[str], list[str]]:
    findings = Findings()
    kept = without_alike(IMAGES, checks, findings.of_dataset("one"))
    told = [f"{one.action} {one.reason} {one.place}: {one.detail}" for one in findings]
    return [one.item.place for one in kept], told


def test_likeness_is_reported() -> None:
    kept, told = checked(ChecksSpec())
    assert kept == ["small", "copy", "large", "other", "plain"]
    assert told == [
        "reported duplicate copy: the same bytes as small",
        "reported near_duplicate small: looks like large",
    ]


def test_likeness_may_leave_out_all_but_the_largest() -> None:
    kept, told = checked(ChecksSpec(near_duplicates="skip"))
    assert kept == ["large", "other", "plain"]
    assert [one.split()[0] for one in told] == ["skipped", "skipped"]


def test_likeness_may_not_matter() -> None:
    assert checked(ChecksSpec(near_duplicates="ignore")) == (
        ["small", "copy", "large", "other", "plain"],
        [],
    )


def test_the_distance_decides_what_is_alike() -> None:
    _, told = checked(ChecksSpec(max_distance=0))
    assert told == ["reported duplicate copy: the same bytes as small"]

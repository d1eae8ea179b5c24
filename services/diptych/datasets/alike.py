"""Images of a dataset that are the same as others, or look it: reported, or left out."""

from collections.abc import Sequence

from diptych.datasets.findings import Action, Note
from diptych.datasets.near_duplicates import near_duplicates
from diptych.datasets.reading import ReadImage
from diptych.datasets.spec import ChecksSpec

__all__ = ["without_alike"]


def without_alike(images: Sequence[ReadImage], checks: ChecksSpec, note: Note) -> list[ReadImage]:
    """Return ``images`` without those that are like another, if ``checks`` says skip.

    Of images alike the largest is the original, and of several that of the smallest digest: their
    names decide only between copies of the same bytes.
    """
    if checks.near_duplicates == "ignore":
        return list(images)
    action: Action | None = "skipped" if checks.near_duplicates == "skip" else None
    first: dict[str, str] = {}
    copies: set[str] = set()
    for image in images:
        place = image.item.place
        original = first.setdefault(image.facts.digest.hex, place)
        if original != place:
            copies.add(place)
            note("duplicate", place, f"the same bytes as {original}", action=action)
    unlike = [one for one in images if one.item.place not in copies]
    ranked = sorted(unlike, key=lambda one: (-one.facts.width * one.facts.height, one.facts.digest))
    alike = near_duplicates([one.facts.perceptual for one in ranked], checks.max_distance)
    for one, other in sorted(alike.items()):
        place, original = ranked[one].item.place, ranked[other].item.place
        note("near_duplicate", place, f"looks like {original}", action=action)
        copies.add(place)
    return [one for one in images if action is None or one.item.place not in copies]

"""Images of a dataset that are the same as others, or look it: reported, or left out."""

from collections.abc import Sequence

from diptych.datasets.facts import Facts
from diptych.datasets.findings import Action, Note
from diptych.datasets.near_duplicates import near_duplicates
from diptych.datasets.sources.base import SourceItem
from diptych.datasets.spec import ChecksSpec

__all__ = ["without_alike"]

Known = tuple[SourceItem, Facts]


def without_alike(images: Sequence[Known], checks: ChecksSpec, note: Note) -> list[Known]:
    """Return ``images`` without those that are like another, if ``checks`` says skip.

    Of images alike the largest is the original, and of several that of the smallest digest: their
    names decide only between copies of the same bytes.
    """
    if checks.near_duplicates == "ignore":
        return list(images)
    action: Action | None = "skipped" if checks.near_duplicates == "skip" else None
    first: dict[str, SourceItem] = {}
    copies: set[str] = set()
    for item, facts in images:
        original = first.setdefault(facts.digest.hex, item)
        if original is not item:
            copies.add(item.place)
            note("duplicate", item.place, f"the same bytes as {original.place}", action=action)
    unlike = [one for one in images if one[0].place not in copies]
    ranked = sorted(unlike, key=lambda one: (-one[1].width * one[1].height, one[1].digest))
    alike = near_duplicates([facts.perceptual for _, facts in ranked], checks.max_distance)
    for place, original_place in sorted(alike.items()):
        item, original = ranked[place][0], ranked[original_place][0]
        note("near_duplicate", item.place, f"looks like {original.place}", action=action)
        copies.add(item.place)
    return [one for one in images if action is None or one[0].place not in copies]

"""What was found about images while a dataset was expanded: nothing is left out without one."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

__all__ = ["ACTIONS", "Action", "Finding", "Findings", "Note", "Reason"]

Action = Literal["skipped", "cropped", "upscaled", "repeated", "reported"]
"""What became of the image; ``reported``: it is used as it is."""
Reason = Literal[
    "animated",
    "aspect_outside",
    "bucket_filled",
    "bucket_merged",
    "caption_has_bom",
    "caption_missing",
    "caption_not_utf8",
    "caption_too_long",
    "cut_by_crop",
    "damaged",
    "duplicate",
    "enlarged",
    "extension_wrong",
    "image_invalid",
    "image_too_large",
    "link_outside",
    "link_refused",
    "mask_invalid",
    "mask_missing",
    "mask_size_differs",
    "max_samples",
    "name_hidden",
    "name_not_picture",
    "name_not_utf8",
    "near_duplicate",
    "picture_odd",
    "repeats",
    "row_without_image",
    "size_differs",
    "size_too_small",
    "source_cut",
    "unreadable",
    "upscale_beyond_limit",
]

_ACTION_OF: Final[Mapping[Reason, Action]] = {
    "animated": "reported",
    "bucket_filled": "repeated",
    "bucket_merged": "cropped",
    "caption_has_bom": "reported",
    "cut_by_crop": "cropped",
    "damaged": "reported",
    "duplicate": "reported",
    "enlarged": "upscaled",
    "extension_wrong": "reported",
    "mask_invalid": "reported",
    "mask_missing": "reported",
    "mask_size_differs": "reported",
    "near_duplicate": "reported",
    "picture_odd": "reported",
    "repeats": "repeated",
    "size_differs": "reported",
}
ACTIONS: Final[Mapping[Reason, Action]] = {
    reason: _ACTION_OF.get(reason, "skipped") for reason in get_args(Reason)
}
"""What a reason does to an image, unless its finding says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about one image."""

    dataset: str
    """Its id."""
    place: str
    """Where the image, or what names it, lies in its source."""
    reason: Reason
    action: Action
    detail: str
    """For a person: what was, against what was expected."""


class Note:
    """Takes findings about one dataset; sources and readers of captions hold it."""

    def __init__(self, findings: "Findings", dataset: str) -> None:
        self._findings, self._dataset = findings, dataset

    def __call__(
        self, reason: Reason, place: str, detail: str = "", *, action: Action | None = None
    ) -> None:
        """Note one thing; its action is the reason's unless given."""
        self._findings.add(
            Finding(
                dataset=self._dataset,
                place=place,
                reason=reason,
                action=action or ACTIONS[reason],
                detail=detail,
            )
        )


class Findings:
    """All findings of one expansion, in the order in which they came; owned by whoever expands."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._found)

    def __iter__(self) -> Iterator[Finding]:
        """Yield each."""
        return iter(self._found)

    def add(self, finding: Finding) -> None:
        """Take one."""
        self._found.append(finding)

    def of_dataset(self, dataset: str) -> Note:
        """Return what notes findings about a dataset."""
        return Note(self, dataset)

    def counts(self) -> Mapping[tuple[str, Action, Reason], int]:
        """Return how many there are by dataset, action and reason, in order."""
        found = Counter((one.dataset, one.action, one.reason) for one in self._found)
        return dict(sorted(found.items()))

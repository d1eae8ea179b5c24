"""Captions: where they are read, what is done to them, and which one an epoch sees.

Everything that changes a text is done when the index is built, so that the index names every text
that will be encoded. An epoch then draws one of an image's captions, or none (dropout).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from diptych.datasets.draws import drawn_below, drawn_order, drawn_words, share_of
from diptych.datasets.findings import Note
from diptych.datasets.sources.base import SourceItem
from diptych.datasets.spec import CaptionsSpec, ShuffleSpec
from diptych.digest import Digest

__all__ = ["CaptionReader", "drawn_caption", "shuffled"]

_BOM: Final = "\ufeff"


class CaptionReader:
    """Reads the captions of one dataset's images; holds its compiled filters."""

    def __init__(self, spec: CaptionsSpec, note: Note) -> None:
        self._spec, self._note = spec, note
        self._filters = [(re.compile(one.pattern), one.replacement) for one in spec.filters]

    @property
    def columns(self) -> frozenset[str]:
        """Return which columns of a source's table captions are read from."""
        if self._spec.strategy != "column":
            return frozenset()
        return frozenset({self._spec.column, self._spec.fallback_column or self._spec.column})

    @property
    def extension(self) -> str | None:
        """Return the extension of the texts that captions are read from, None if from none."""
        return self._spec.extension if self._spec.strategy == "text_file" else None

    @property
    def text_limit(self) -> int:
        """Return how many bytes of a text to read: enough to see that one is too long."""
        return self._spec.max_bytes + len(_BOM.encode()) + 1

    def read(self, item: SourceItem, text: bytes | None, image: Digest) -> tuple[str, ...] | None:
        """Return an image's captions, None if it has none and is to be left out.

        Args:
            item: The image.
            text: The first ``text_limit`` bytes of the text beside it, if ``extension`` names one.
            image: Digest of its bytes: shuffling depends on it, not on the image's name.
        """
        lines = self._lines(item, text)
        if not lines:
            fallback = self._fallback(item)
            if fallback is None:
                return None
            lines = [fallback]
        captions = [variant for line in lines for variant in self._variants(line, image)]
        return tuple(dict.fromkeys(map(self._prepended, captions)))

    def _lines(self, item: SourceItem, data: bytes | None) -> list[str]:
        """Return the captions before shuffling, filtered; none where the image has none."""
        spec = self._spec
        if spec.strategy == "none":
            return [""]
        if spec.strategy == "instance_prompt":
            return [spec.instance_prompt or ""]
        texts = [text for text in self._texts(item, data) if self._fits(text, item)]
        parts = [part for text in texts for part in self._split(text)]
        return [line for part in parts if (line := self._filtered(part).strip())]

    def _texts(self, item: SourceItem, data: bytes | None) -> Sequence[str]:
        spec = self._spec
        if spec.strategy == "file_name":
            return [item.name.rpartition("/")[2]]
        if spec.strategy == "text_file":
            return [] if data is None else self._decoded(data, item)
        for column in (spec.column, spec.fallback_column):
            if column and (texts := _texts_of(item.row.get(column))):
                return texts
        return []

    def _decoded(self, data: bytes, item: SourceItem) -> list[str]:
        is_cut = len(data) > self._spec.max_bytes
        try:
            text = data.decode("utf-8", "ignore" if is_cut else "strict")
        except UnicodeDecodeError as error:
            detail = f"byte {error.start} of its text is not UTF-8"
            self._note("caption_not_utf8", item.place, detail, action="reported")
            return []
        if text.startswith(_BOM):
            self._note("caption_has_bom", item.place, "a byte order mark, which is left out")
        return [text.removeprefix(_BOM)]

    def _fits(self, text: str, item: SourceItem) -> bool:
        try:
            if len(text.encode()) <= self._spec.max_bytes:
                return True
        except UnicodeEncodeError:
            detail = "half a character, which UTF-8 cannot spell"
            self._note("caption_not_utf8", item.place, detail, action="reported")
            return False
        detail = f"more than {self._spec.max_bytes} bytes of text"
        self._note("caption_too_long", item.place, detail, action="reported")
        return False

    def _split(self, text: str) -> Iterable[str]:
        return text.splitlines() if self._spec.split_lines else [" ".join(text.split())]

    def _filtered(self, text: str) -> str:
        for pattern, replacement in self._filters:
            text = pattern.sub(replacement, text)
        return text

    def _variants(self, text: str, image: Digest) -> list[str]:
        shuffle = self._spec.shuffle
        return [text] if shuffle is None else shuffled(text, shuffle, image)

    def _prepended(self, text: str) -> str:
        if not self._spec.prepend_instance_prompt:
            return text
        return f"{self._spec.instance_prompt} {text}".strip()

    def _fallback(self, item: SourceItem) -> str | None:
        spec = self._spec
        if spec.fallback == "skip":
            self._note("caption_missing", item.place, "no caption, and none is made up")
            return None
        text = "" if spec.fallback == "empty" else spec.instance_prompt or ""
        self._note("caption_missing", item.place, f"its caption is {text!r:.80}", action="reported")
        return text


def shuffled(text: str, spec: ShuffleSpec, image: Digest) -> list[str]:
    """Return variants of ``text`` with its tags in other orders, the same for the same arguments.

    Fewer than asked for come back where the tags have fewer orders.
    """
    tags = [tag.strip() for tag in text.split(spec.separator) if tag.strip()]
    kept, moved = tags[: spec.num_kept], tags[spec.num_kept :]
    join = spec.separator if spec.separator.isspace() else f"{spec.separator} "
    found = {text: None} if spec.include_original else {}
    limit = len(found) + spec.num_variants
    for attempt in range(4 * spec.num_variants):
        if len(found) < limit:
            order = drawn_order(len(moved), "shuffle", spec.seed, str(image), text, attempt)
            found[join.join(kept + [moved[place] for place in order])] = None
    return list(found)


def drawn_caption(
    captions: Sequence[str],
    *,
    dropout: float,
    image: Digest,
    seed: int,
    epoch: int,
    repeat: int = 0,
) -> str:
    """Return the caption with which an epoch sees an image: one of its own, or the empty one.

    Args:
        captions: The image's, as the index has them.
        dropout: Probability of the empty one.
        image: Digest of the image's bytes.
        seed: The run's.
        epoch: From 1.
        repeat: Which of the times that the epoch sees the image, from 0.
    """
    which, whether, _, _ = drawn_words("caption", seed, str(image), epoch, repeat)
    return "" if share_of(whether) < dropout else captions[drawn_below(len(captions), which)]


def _texts_of(value: object) -> list[str]:
    """Return what a column holds as texts: one, or several."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts_of(one)]
    return []

"""A CLIP tokenizer as encoders use it, and tokens that exist for one text only."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from diptych.digest import Digest
from diptych.errors import CheckpointInvalid
from diptych.models.parts import TokenizerFiles

__all__ = ["Vocabulary", "load_vocabulary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A CLIP tokenizer that is only read, so threads may share it."""

    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    pad_id: int
    window: int
    """Tokens an encoder sees at once, start and end included."""
    fingerprint: str

    @property
    def num_content(self) -> int:
        """Tokens of text in one window."""
        return self.window - 2

    def tokenize(
        self, text: str, learned: Mapping[str, Sequence[int]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Return the token ids of ``text`` without start and end, and where each begins in it.

        Args:
            text: Any.
            learned: Ids of tokens that the vocabulary does not have, by their text; letters' case
                does not matter, as to the vocabulary itself.
        """
        if not learned:
            return self._tokenize_plain(text, 0)
        longest_first = sorted(learned, key=len, reverse=True)
        groups = [f"({re.escape(token)})" for token in longest_first]
        pattern = re.compile("|".join(groups), re.IGNORECASE)
        ids: list[int] = []
        begins: list[int] = []
        end = 0
        for match in pattern.finditer(text):
            assert match.lastindex is not None
            own = learned[longest_first[match.lastindex - 1]]
            before = self._tokenize_plain(text[end : match.start()], end)
            ids += [*before[0], *own]
            begins += [*before[1], *[match.start()] * len(own)]
            end = match.end()
        rest = self._tokenize_plain(text[end:], end)
        return ids + rest[0], begins + rest[1]

    def windows(self, ids: Sequence[int], num_windows: int) -> list[tuple[int, ...]]:
        """Return ``num_windows`` windows of ids: start, text, end, padding; excess text is cut."""
        size = self.num_content
        pieces = [tuple(ids[i * size : (i + 1) * size]) for i in range(num_windows)]
        return [
            (self.bos_id, *piece, self.eos_id, *[self.pad_id] * (size - len(piece)))
            for piece in pieces
        ]

    def _tokenize_plain(self, text: str, offset: int) -> tuple[list[int], list[int]]:
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [offset + begin for begin, _ in encoding.offsets]


def load_vocabulary(files: TokenizerFiles, source: str, *, window: int) -> Vocabulary:
    """Return the CLIP vocabulary in a folder.

    Raises:
        CheckpointInvalid: the folder holds no CLIP tokenizer.
    """
    words: dict[str, Any] = {} if files.pad_token is None else {"pad_token": files.pad_token}
    missing = [n for n in ("vocab.json", "merges.txt") if not (files.folder / n).is_file()]
    if missing:
        raise CheckpointInvalid(source, f"tokenizer misses {', '.join(missing)}")
    try:
        loaded = CLIPTokenizer.from_pretrained(files.folder, local_files_only=True, **words)
    except Exception as error:  # tokenizers raises nothing narrower
        problem = f"{files.folder.name} is no CLIP tokenizer: {error}"
        raise CheckpointInvalid(source, problem) from error
    tokenizer: Tokenizer = loaded.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    window = min(window, loaded.model_max_length)
    return Vocabulary(
        tokenizer=tokenizer,
        bos_id=ids[0],
        eos_id=ids[1],
        pad_id=ids[2],
        window=window,
        fingerprint=str(Digest.of_value([tokenizer.to_str(), ids, window])),
    )

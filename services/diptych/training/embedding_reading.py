"""Embeddings of batches as tensors: from memory, else from the cache, else made by it."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from torch import Tensor

from diptych.clients.obtaining import Cache, ObtainMode, Wanted, obtain
from diptych.digest import Digest
from diptych.embeddings.entry import check_finite, read_entry
from diptych.errors import EmbeddingMissing, Unavailable
from diptych.models.embedding_values import from_entry

__all__ = ["EmbeddingReader", "EmbeddingSource", "Tensors"]

_log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""How long a cache may not answer, as while it is started anew: longer than that takes."""
_PAUSE_S: Final = 0.5

Tensors = Mapping[str, Tensor]
"""``hidden`` [T, D] and ``pooled`` [P] of a text, ``mean`` and ``std`` [4, h, w] of an image; in
the dtype they are kept in. Shared: never written to."""


class EmbeddingSource(Protocol):
    """What feeding asks for embeddings."""

    def tensors(self, wanted: Sequence[Wanted], *, mode: ObtainMode) -> Mapping[Digest, Tensors]:
        """Return the embedding of each of ``wanted`` by its key."""


class EmbeddingReader:
    """Reads embeddings and remembers the last ones it read; safe from any thread.

    What it returns does not depend on what it remembers: an embedding never changes.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        stage: str | None,
        memory_bytes: int,
        patience_s: float = PATIENCE_S,
        is_asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Read from ``cache``, which may be gone for a while.

        Args:
            cache: What is asked.
            stage: Whose encoders.
            memory_bytes: Of what was read that are remembered.
            patience_s: For how long a cache that does not answer is asked again.
            is_asked_to_stop: Whether nobody waits for it any more; called from any thread.
        """
        self._is_asked_to_stop = is_asked_to_stop
        self._cache, self._stage, self._patience_s = cache, stage, patience_s
        self._limit_bytes: Final = memory_bytes
        self._size_bytes = 0
        self._known: OrderedDict[Digest, Tensors] = OrderedDict()
        self._lock = threading.Lock()

    def tensors(self, wanted: Sequence[Wanted], *, mode: ObtainMode) -> Mapping[Digest, Tensors]:
        """Return the embedding of each of ``wanted`` by its key; raises what ``obtain`` does.

        Raises:
            EmbeddingInvalid: What the cache holds is no embedding.
        """
        found = {} if mode == "bypass" else self._remembered([one.key for one in wanted])
        missing = [one for one in wanted if one.key not in found]
        if not missing:
            return found
        for key, data in self._patiently(missing, mode).items():
            entry = read_entry(data)
            check_finite(entry)
            found[key] = from_entry(entry)
            if mode != "bypass":
                self._remember(key, found[key])
        return found

    def _patiently(self, wanted: Sequence[Wanted], mode: ObtainMode) -> Mapping[Digest, bytes]:
        """Return what ``_obtained`` does, asked again while the cache does not answer."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._obtained(wanted, mode)
            except Unavailable as error:
                if time.monotonic() >= until or self._is_asked_to_stop():
                    raise
                _log.warning("the cache is asked again", extra={"why": str(error)})
                time.sleep(_PAUSE_S)

    def _obtained(self, wanted: Sequence[Wanted], mode: ObtainMode) -> Mapping[Digest, bytes]:
        """Return what the cache has; where that is not all, what ``obtain`` makes of it."""
        if mode != "bypass":
            with suppress(EmbeddingMissing):
                return dict(self._cache.read([one.key for one in wanted]))
        return obtain(self._cache, wanted, mode=mode, stage=self._stage)

    def _remembered(self, keys: Sequence[Digest]) -> dict[Digest, Tensors]:
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
            for key in found:
                self._known.move_to_end(key)
            return found

    def _remember(self, key: Digest, tensors: Tensors) -> None:
        with self._lock:
            if key in self._known:
                return
            self._known[key] = tensors
            self._size_bytes += _size(tensors)
            while self._size_bytes > self._limit_bytes:
                _, oldest = self._known.popitem(last=False)
                self._size_bytes -= _size(oldest)


def _size(tensors: Tensors) -> int:
    return sum(one.nbytes for one in tensors.values())

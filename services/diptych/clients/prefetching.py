"""Embeddings in the order that a training loop wants them, read ahead of it."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from diptych.digest import Digest

__all__ = ["read_ahead"]

Read = Callable[[Sequence[Digest]], Mapping[Digest, bytes]]
"""Returns the embeddings of some keys, all of them; raises where one is missing."""
_Batch = tuple[Sequence[Digest], Mapping[Digest, bytes]]
_LOOK_S = 0.1


def read_ahead(
    keys: Iterable[Digest], read: Read, *, batch_size: int = 32, num_ahead: int = 4
) -> Iterator[tuple[Digest, bytes]]:
    """Yield the embedding of each of ``keys`` in their order, equal keys each time.

    A thread reads ``batch_size`` keys at a time and is at most ``num_ahead`` batches ahead, which
    bounds memory; it ends when the iterator does, however that ends. ``keys`` may be endless and
    is drawn from in that thread. What ``read`` and ``keys`` raise is raised here, in its place.
    """
    batches: queue.Queue[_Batch | BaseException | None] = queue.Queue(maxsize=num_ahead)
    is_over = threading.Event()

    def offer(item: _Batch | BaseException | None) -> None:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                return batches.put(item, timeout=_LOOK_S)
        return None

    def work() -> None:
        drawn = iter(keys)
        try:
            while not is_over.is_set() and (batch := list(islice(drawn, batch_size))):
                offer((batch, read(list(dict.fromkeys(batch)))))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that asked
            offer(error)
        else:
            offer(None)

    thread = threading.Thread(target=work, name="prefetching", daemon=True)
    thread.start()
    try:
        while (item := batches.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, values = item
            for key in batch:
                yield key, values[key]
    finally:
        is_over.set()
        thread.join()

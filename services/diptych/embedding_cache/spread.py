"""One stage's encoders on several devices, as if they were one."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from diptych.digest import Digest
from diptych.embedding_cache.ports import Encoding, PromptWish
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.key import ImageRecord, Preprocessing, PromptRecord

__all__ = ["Spread"]


class Spread:
    """Implements ``ports.Encoding``: each work goes where the fewest are under way."""

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        """Use ``encodings``, at least one, which give equal records."""
        self._encodings = tuple(encodings)
        self._under_way: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def identities(self) -> EncoderIdentities:
        """Return whose encoders they are."""
        return self._encodings[0].identities

    def prompt_record(self, wish: PromptWish) -> PromptRecord:
        """Return everything that a text's embedding depends on."""
        return self._encodings[0].prompt_record(wish)

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        """Return everything that an image's embedding depends on."""
        return self._encodings[0].image_record(image, preprocessing)

    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        """Return the entry of ``record`` to come."""
        number = self._idlest()
        return self._counted(number, self._encodings[number].encode_prompt(record))

    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        """Return the entry of ``record`` to come; ``data`` is the image's file."""
        number = self._idlest()
        encoding = self._encodings[number].encode_image(record, data, label=label)
        return self._counted(number, encoding)

    def _idlest(self) -> int:
        with self._lock:
            return min(range(len(self._encodings)), key=self._under_way.__getitem__)

    def _counted(self, number: int, making: Future[bytes]) -> Future[bytes]:
        with self._lock:
            self._under_way[number] += 1
        making.add_done_callback(partial(self._ended, number))
        return making

    def _ended(self, number: int, _: Future[bytes]) -> None:
        with self._lock:
            self._under_way[number] -= 1

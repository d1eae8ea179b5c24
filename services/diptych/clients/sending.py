"""Messages on their way out, and what went wrong in making them."""

from collections.abc import Iterator
from typing import Any

from diptych.errors import DiptychError

__all__ = ["Sending"]


class Sending:
    """Messages to send; gRPC swallows what their iterator raises, so it is kept here."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self.problem: DiptychError | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the messages."""
        try:
            yield from self._messages
        except DiptychError as error:
            self.problem = error
            raise

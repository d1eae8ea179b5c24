"""What a command itself finds wrong, told together with what the server finds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diptych.clients.requests import merged
from diptych.errors import DiptychError, FieldViolation, InvalidRequest

__all__ = ["Refusals"]


class Refusals:
    """The findings of one command so far; owned by it."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        """Return whether anything was found."""
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """Note that ``field`` is wrong."""
        self._found.append(FieldViolation(field=field, description=description))

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the violations of an InvalidRequest that the block raises, and go on after it."""
        try:
            yield
        except InvalidRequest as refused:
            self._found.extend(refused.violations)

    @contextmanager
    def told_with(self) -> Iterator[None]:
        """Tell what was found, if anything, together with what the block raises.

        Raises:
            InvalidRequest: Something was found and the block raised a ``DiptychError``.
        """
        try:
            yield
        except DiptychError as error:
            if not self._found:
                raise
            raise self.with_others(error.violations) from error

    def with_others(self, others: Sequence[FieldViolation]) -> InvalidRequest:
        """Return the error that tells what was found and what others found of other fields."""
        return InvalidRequest(merged(self._found, others))

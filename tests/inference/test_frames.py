"""What a failed call held is gone, although somebody keeps its error."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from diptych.inference.frames import frees_frames


class Held:
    """Something large."""


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_result_is_returned() -> None:
    assert frees_frames(lambda a, *, b: a + b)(1, b=2) == 3


def test_error_holds_no_value_of_the_call() -> None:
    held: list[weakref.ref[Held]] = []

    def fail() -> None:
        value = Held()
        held.append(weakref.ref(value))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        frees_frames(fail)()
    assert held[0]() is None


def test_cause_holds_no_value_of_the_call() -> None:
    held: list[weakref.ref[Held]] = []

    def cause() -> None:
        value = Held()
        held.append(weakref.ref(value))
        raise KeyError("why")

    def fail() -> None:
        try:
            cause()
        except KeyError as error:
            raise ValueError("no") from error

    with pytest.raises(ValueError, match="no"):
        frees_frames(fail)()
    assert held[0]() is None

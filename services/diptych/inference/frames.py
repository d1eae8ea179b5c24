"""Work that fails lets go of what it held, although its error lives on.

An error keeps the frames it came through, and their values: here mapped files that are removed
already, and weights. A call's error is part of a reference cycle as soon as a future carries it
to another thread, so without this they would stay until the next full garbage collection.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["frees_frames"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def frees_frames(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return ``function``, whose errors hold no value of the frames they came through."""

    @wraps(function)
    def freeing(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except BaseException as error:
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__context__
            raise

    return freeing

"""Values out of a text, strictly: every violation at once, each with its line."""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from diptych.datasets.manifest_text import Path, PlainText

__all__ = ["adapter_of", "read_strictly", "value_at"]

T = TypeVar("T")

MAX_SHOWN: Final = 60
MAX_TOLD: Final = 100
"""Violations of one value; a text of nothing but unknown keys has more than anyone reads."""
_NO_SUCH_KEY: Final = frozenset({"unexpected_keyword_argument", "extra_forbidden"})
_TELL_ALL: Final = frozenset({"missing", "union_tag_not_found", "value_error"})
"""Problems of which the value says no more."""
_MESSAGES: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "union_tag_not_found": "type is missing",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be finite",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be {expected}",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "dataclass_type": "must be a mapping of keys to values",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}
"""In place of pydantic's own words, with its limits."""


def read_strictly(
    kind: type[T], plain: PlainText, value: object, *, at: Path = (), with_root: bool = True
) -> T | None:
    """Return ``value`` as a ``kind``; None where it is none, with all that is wrong in ``plain``.

    Args:
        kind: A dataclass with pydantic's strict configuration.
        plain: The text that holds the value.
        value: What stands at ``at`` there, or what is read in its stead.
        at: Where in the text.
        with_root: Whether rules about the whole value are told too.
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
        found: T = adapter_of(cast("Any", kind)).validate_json(text, strict=True)
    except ValidationError as error:
        for details in error.errors(include_url=False)[:MAX_TOLD]:
            if with_root or details["loc"]:
                _refuse(plain, details, kind, value, at)
        return None
    return found


@lru_cache(maxsize=8)
def adapter_of(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - lru_cache knows no type[T]
    """Return what validates a dataclass; making it takes a tenth of a second."""
    return TypeAdapter(kind)


def value_at(plain: PlainText, path: Path) -> Any:  # noqa: ANN401 - what the text says
    """Return what stands at ``path``, which is there."""
    value = plain.value
    for part in path:
        value = value[part]
    return value


def _refuse(
    plain: PlainText,
    details: ErrorDetails,
    kind: type,
    value: Any,  # noqa: ANN401 - what the text says
    at: Path,
) -> None:
    """Note what pydantic found, at the line and under the path that the text has."""
    problem = details["type"]
    path: Path = ()
    for index, part in enumerate(details["loc"]):
        is_last = index == len(details["loc"]) - 1
        is_there = isinstance(value, dict) and part in value
        if is_there or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            path, value = (*path, part), value[part]
        elif is_last and problem == "missing":
            path = (*path, part)
        # else the part is the type that chose among sources, which the text has no key for
    if problem in _NO_SUCH_KEY:
        plain.refuse((*at, *path), f"no such key here{_meant(kind, path)}")
        return
    shown = "" if problem in _TELL_ALL else f", got {_shown(value)}"
    own = _MESSAGES.get(problem)
    limits = details.get("ctx", {})
    message = own.format(**limits) if own else details["msg"].removeprefix("Value error, ")
    plain.refuse((*at, *path), f"{message}{shown}")


def _shown(value: object) -> str:
    return f"{value!r:.{MAX_SHOWN}}"


def _meant(kind: type, path: Path) -> str:
    """Return which key was probably meant, where one of that place looks alike."""
    kinds: list[Any] = [kind]
    for part in path[:-1]:
        kinds = [found for one in kinds for found in _below(one, part)]
    known = {name for one in kinds if is_dataclass(one) for name in get_type_hints(one)}
    near = difflib.get_close_matches(str(path[-1]), sorted(known), n=1)
    return f"; {near[0]} is" if near else ""


def _below(kind: type, part: str | int) -> Iterator[type]:
    """Yield the dataclasses that may stand in a field of ``kind``."""
    held = kind if isinstance(part, int) else get_type_hints(kind).get(part)
    return _dataclasses(held)


def _dataclasses(hint: Any) -> Iterator[type]:  # noqa: ANN401 - any annotation
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for one in get_args(hint):
        yield from _dataclasses(one)

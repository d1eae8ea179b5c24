"""A manifest's text, YAML or JSON, as plain values that remember their lines.

JSON is read as the YAML it is, but faster where it is one line, as programs write it. Of YAML, what
JSON can say is read, and anchors, aliases and ``<<`` that save repeating; tags that construct
objects are refused by the loader.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from diptych.errors import FieldViolation

__all__ = ["MAX_TEXT_BYTES", "Path", "PlainText", "field_name", "parse_text"]

Path = tuple[str | int, ...]
"""Keys and positions that lead to a value."""

MAX_TEXT_BYTES: Final = 4 * 2**20
MAX_VALUES: Final = 200_000
MAX_DEPTH: Final = 24
_MERGE: Final = "tag:yaml.org,2002:merge"
_COLLECTIONS: Final = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, which are JSON's too: 1e-3 is a number, and no is a text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"({_pattern})$"), list(_first)
    )


@dataclass(slots=True, kw_only=True)
class PlainText:
    """What a text says, and where; owned by whoever parsed it."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    """Of each key and item, from 1."""
    violations: list[FieldViolation] = field(default_factory=list)
    whole: str = "manifest"
    """What violations of the text as a whole call it."""
    _refused: set[str] = field(default_factory=set)

    def refuse(self, path: Path, problem: str) -> None:
        """Note that the value at ``path`` is wrong, with its line or that of what holds it.

        One thing is told of a value: what was found first.
        """
        name = field_name(path) if path else self.whole
        if name not in self._refused:
            self._refused.add(name)
            description = f"line {self.line(path)}: {problem}"
            self.violations.append(FieldViolation(field=name, description=description))

    def line(self, path: Path) -> int:
        """Return the line of ``path``, or of the nearest that holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse_text(data: bytes, *, whole: str = "manifest") -> PlainText:
    """Return what ``data`` says; whatever is wrong with it is among the result's violations."""
    plain = PlainText(whole=whole)
    if len(data) > MAX_TEXT_BYTES:
        plain.refuse((), f"{len(data)} bytes, the limit is {MAX_TEXT_BYTES}")
        return plain
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        plain.lines[()] = line
        plain.refuse((), f"byte {error.start} is not UTF-8")
        return plain
    if text.lstrip()[:1] in {"{", "["}:
        if _read_json_line(text, plain):
            return plain
        text = text.replace("\t", " ")  # JSON has raw tabs between values only, YAML takes none
    try:
        _read(text, plain)
    except yaml.reader.ReaderError as error:
        plain.lines[()] = text.count("\n", 0, error.position) + 1
        plain.refuse((), f"character {error.character:#x} has no place in a text")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        plain.lines[()] = mark.line + 1 if mark else 1
        plain.refuse((), f"not YAML or JSON: {getattr(error, 'problem', None) or error}")
    except RecursionError:
        plain.refuse((), "values are nested too deep")
    return plain


def _read_json_line(text: str, plain: PlainText) -> bool:
    """Read JSON of one line, as programs send it, and return whether it is that.

    A hundred times as fast as reading it as YAML, which is for those who want to know the line.
    What is wrong with it is left to YAML to tell.
    """
    if "\n" in text.strip() or "\r" in text or yaml.reader.Reader.NON_PRINTABLE.search(text):
        return False
    try:
        value = json.loads(text, object_pairs_hook=_unlike_pairs)
    except (ValueError, RecursionError):
        return False
    if not _is_plain(value, MAX_DEPTH, [MAX_VALUES]):
        return False
    plain.value = value
    plain.lines[()] = text[: len(text) - len(text.lstrip())].count("\n") + 1
    return True


def _unlike_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) or "<<" in found:
        raise ValueError("a key comes twice, or means more than it says")
    return found


def _is_plain(value: object, depth: int, left: list[int]) -> bool:
    """Return whether YAML would read a value of JSON without a word; ``left`` counts values."""
    left[0] -= 1
    if depth < 0 or left[0] < 0:
        return False
    if isinstance(value, dict):
        is_plain = all(map(_is_text, value))
        return is_plain and all(_is_plain(one, depth - 1, left) for one in value.values())
    if isinstance(value, list):
        return all(_is_plain(one, depth - 1, left) for one in value)
    if isinstance(value, str):
        return _is_text(value)
    return not isinstance(value, float) or math.isfinite(value)


def _is_text(value: str) -> bool:
    """Return whether no half of a character is in ``value``."""
    return not any("\ud800" <= one <= "\udfff" for one in value)


def _read(text: str, plain: PlainText) -> None:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            plain.refuse((), "the file is empty")
        else:
            plain.value = _Reader(loader, plain).value(node, ())
    finally:
        loader.dispose()


def field_name(path: Path) -> str:
    """Return ``datasets[0].size.resolution`` for its path."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".")[:200] or "manifest"


class _Reader:
    """Turns nodes into values; counts them, since aliases can make few bytes many values."""

    def __init__(self, loader: _Loader, plain: PlainText) -> None:
        self._loader, self._plain = loader, plain
        self._num_values = 0

    def value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 - what the text says
        self._count(node, len(path))
        self._plain.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            self._plain.refuse(path, f"{node.tag:.80} is not a kind of value here")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._num_values += 1
        if self._num_values > MAX_VALUES or depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(
                problem=f"more than {MAX_VALUES} values, or deeper than {MAX_DEPTH}",
                problem_mark=node.start_mark,
            )

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own: set[str] = set()
        for key, value, is_own in self._pairs(node, 0):
            name = _joined(str(key.value))
            if is_own and name in own:
                self._plain.lines[(*path, name)] = key.start_mark.line + 1
                self._plain.refuse((*path, name), "the key comes twice")
            if is_own:
                own.add(name)
            if is_own or name not in found:
                self._plain.lines[(*path, name)] = key.start_mark.line + 1
                found[name] = self.value(value, (*path, name))
        return found

    def _pairs(self, node: yaml.Node, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Yield a mapping's keys and values, then what ``<<`` adds."""
        if depth:
            self._count(node, 0)
        merged: list[yaml.Node] = []
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, depth == 0
        for other in merged if depth < MAX_DEPTH else ():
            for key, value, _ in self._pairs(other, depth + 1):
                self._count(key, 0)
                yield key, value, False

    def _scalar(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError, LookupError, AttributeError) as error:
            # What PyYAML's constructors raise on a tag that its text does not bear out.
            self._plain.refuse(path, f"{node.value:.40} is not what it claims: {error!s:.80}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._plain.refuse(path, f"{node.value:.40} is not a finite number")
            return 0.0
        if isinstance(value, str):
            return _joined(value)
        return value if value is None or isinstance(value, bool | int | float) else node.value


def _joined(text: str) -> str:
    r"""Return ``text`` with JSON's \ud83d\ude00 as one character; a lone half becomes ``?``."""
    if _is_text(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""The rules of docs/style.md that no linter knows, and the lists that grow only on purpose."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from diptych import errors

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "services" / "diptych"
MODULES = sorted(p for p in SOURCE.rglob("*.py") if "v1" not in p.parts)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
NO_MIRROR = {"__init__.py", "__main__.py"}
LISTS = {SOURCE / "errors.py"}
"""Files that list one kind of thing: a reader looks an entry up and does not read them through."""
VAGUE_WORDS = {"utils", "util", "helpers", "common", "manager", "core", "misc"}


def mirror(module: Path) -> Path:
    relative = module.relative_to(SOURCE)
    return ROOT / "tests" / relative.parent / f"test_{relative.name}"


def exported(tree: ast.Module) -> list[str] | None:
    """Return the names in ``__all__``, None when the module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def relative_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=relative_id)
def test_module_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("module", [m for m in MODULES if m.name not in NO_MIRROR], ids=relative_id)
def test_module_lists_what_it_exports(module: Path) -> None:
    assert exported(ast.parse(module.read_text())) is not None


@pytest.mark.parametrize("module", sorted({*MODULES, *TESTS} - LISTS), ids=relative_id)
def test_file_can_be_read_in_one_sitting(module: Path) -> None:
    assert module.read_text().count("\n") <= MAX_FILE_LINES


@pytest.mark.parametrize("module", MODULES, ids=relative_id)
def test_functions_fit_on_a_page(module: Path) -> None:
    found = functions(ast.parse(module.read_text()))
    assert not [f.name for f in found if (f.end_lineno or 0) - f.lineno >= MAX_FUNCTION_LINES]


@pytest.mark.parametrize("module", [m for m in MODULES if m.name not in NO_MIRROR], ids=relative_id)
def test_module_has_its_mirror_among_the_tests(module: Path) -> None:
    assert mirror(module).is_file(), relative_id(mirror(module))


@pytest.mark.parametrize("module", MODULES, ids=relative_id)
def test_module_is_not_named_vaguely(module: Path) -> None:
    assert not VAGUE_WORDS & {part.removesuffix(".py") for part in module.parts[-3:]}


@pytest.mark.parametrize("module", [*MODULES, *TESTS], ids=relative_id)
def test_todo_carries_an_issue_number(module: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX)(?! ?\(#\d+\))\b", strip_strings(module))


def strip_strings(module: Path) -> str:
    """Return the comments of a file, which is where such notes live."""
    return "\n".join(re.findall(r"#.*", module.read_text()))


@pytest.mark.parametrize("test", [t for t in TESTS if t != Path(__file__)], ids=relative_id)
def test_tests_neither_sleep_nor_skip(test: Path) -> None:
    banned = r"time\.sleep\(|pytest\.skip\(|mark\.skip|mark\.xfail|importorskip"
    assert not re.findall(banned, test.read_text())


@pytest.mark.parametrize("test", [t for t in TESTS if t.name.startswith("test_")], ids=relative_id)
def test_test_file_says_what_it_checks(test: Path) -> None:
    assert ast.get_docstring(ast.parse(test.read_text()))


def test_every_deliberate_error_has_a_reason_of_its_own() -> None:
    leaves = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value)
        and issubclass(value, errors.DiptychError)
        and "reason" in vars(value)
        and value is not errors.DiptychError
    ]
    reasons = [leaf.reason for leaf in leaves]
    assert sorted(set(reasons)) == sorted(reasons)


def test_error_tree_is_drawn_whole() -> None:
    drawn = set(re.findall(r"\w+", errors.__doc__ or ""))
    assert {name for name in errors.__all__ if name != "FieldViolation"} <= drawn

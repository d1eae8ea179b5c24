"""Documents point at what is there and speak of what is true."""

import re
from pathlib import Path

import pytest

from diptych import errors
from diptych.inference.settings import Settings
from diptych.telemetry.cache_metrics import CACHE_METRIC_NAMES
from diptych.telemetry.metrics import METRIC_NAMES
from diptych.telemetry.training_metrics import TRAINING_METRIC_NAMES

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_README_LINES = 150


def targets(document: Path) -> list[str]:
    """Return the relative links of a document, without their anchors."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    return [link for link in links if "://" not in link]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    missing = [link for link in targets(document) if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_in_the_documents_imports_what_exists(document: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL):
        imports = [line for line in block.splitlines() if line.startswith(("from ", "import "))]
        compile(block, str(document), "exec")
        exec("\n".join(imports), {})


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") < MAX_README_LINES


def test_path_of_a_request_has_at_most_eight_steps() -> None:
    readme = (ROOT / "README.md").read_text()
    path = readme.split("## The path of one request")[1].split("\n## ")[0]
    assert 1 <= len(re.findall(r"^\d+\. ", path, flags=re.MULTILINE)) <= 8


def test_operations_names_every_shared_variable() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    names = [f"DIPTYCH_{name.upper()}" for name in Settings.model_fields if name != "inference"]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_operations_say_what_helps_against_every_reason() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    reasons = {str(getattr(getattr(errors, name), "reason", "UNKNOWN")) for name in errors.__all__}
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []


def test_metrics_in_the_documents_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    named = set(re.findall(r"`(diptych_[a-z_]+)", text))
    known = {*METRIC_NAMES, *CACHE_METRIC_NAMES, *TRAINING_METRIC_NAMES}
    assert named - known == set()


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(p.name[:4]) for p in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))

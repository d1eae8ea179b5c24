"""Jobs as files: read with everything that is wrong at once, written whole.

SimpleTuner's three words for its split schedule are read too, and become ``stage`` and
``boundary``; a job never holds them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from diptych.datasets.manifest import manifest_at, read_manifest
from diptych.datasets.manifest_text import MAX_TEXT_BYTES, PlainText, parse_text
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.spec import Manifest
from diptych.datasets.strict_reading import adapter_of, read_strictly
from diptych.diffusion.split import boundary_from_refiner_strength
from diptych.errors import DatasetInvalid, FieldViolation, JobInvalid
from diptych.home_paths import at_home
from diptych.training.spec import JobSpec

__all__ = ["inlined", "parse_job", "read_job", "to_json"]

_TRAINS: Final = "refiner_training"
_STRENGTH: Final = "refiner_training_strength"
_INVERTS: Final = "refiner_training_invert_schedule"
_WORDS: Final = (_TRAINS, _STRENGTH, _INVERTS)
DEFAULT_STRENGTH: Final = 0.2
"""SimpleTuner's own."""
_STAND_IN: Final[Mapping[str, object]] = {
    "datasets": [{"id": "stand-in", "source": {"type": "folder", "path": "."}}]
}
"""A manifest that is right, so that a wrong one hides nothing else of a job."""


def read_job(path: Path, *, places: Places = EVERYWHERE) -> JobSpec:
    """Return the job in a file, with the paths of its images made absolute.

    Raises:
        JobInvalid: It cannot be read, or says something wrong; everything wrong is named, each with
            its line.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        problem = f"cannot read {str(path)!r:.200}: {error.strerror}"
        raise JobInvalid([FieldViolation(field="job", description=problem)]) from error
    return parse_job(data, folder=path.parent, places=places)


def parse_job(data: bytes, *, folder: Path, places: Places = EVERYWHERE) -> JobSpec:
    """Return the job that ``data`` spells in YAML or JSON.

    Args:
        data: The text. Its ``dataset`` is a manifest, or the path of one.
        folder: Where paths begin that are not absolute; those of a manifest that is named begin
            beside it.
        places: What the dataset may make this process read.

    Raises:
        JobInvalid: As ``read_job``.
    """
    plain = parse_text(data, whole="job")
    if any(found.field == "job" for found in plain.violations):
        raise JobInvalid(plain.violations)
    if not isinstance(plain.value, dict):
        plain.refuse((), "a job is a mapping of keys to values")
        raise JobInvalid(plain.violations)
    value = _in_own_words(plain)
    manifest = None
    if "dataset" in value:
        manifest = _manifest(plain, value["dataset"], folder, places)
        value["dataset"] = _STAND_IN
    spec = read_strictly(JobSpec, plain, value)
    if spec is None or manifest is None or plain.violations:
        raise JobInvalid(plain.violations)
    return replace(spec, dataset=manifest)


def inlined(data: bytes, *, folder: Path) -> str:
    """Return a job's text with its manifest's file in it, and every path as it stands there.

    For a server that has folders of its own; ``data`` is a text that ``parse_job`` takes.
    """
    value = parse_text(data, whole="job").value
    if isinstance(value, dict) and isinstance(value.get("dataset"), str):
        path = folder / at_home(value["dataset"])
        value = {**value, "dataset": parse_text(path.read_bytes()).value}
    return json.dumps(value, ensure_ascii=False)


def to_json(spec: JobSpec) -> str:
    """Return all of ``spec``, defaults too, as one JSON object that ``parse_job`` reads as equal.

    Equal jobs have equal texts. What is infinite is left out, since it is a default, which JSON
    cannot say.
    """
    value = adapter_of(JobSpec).dump_python(spec)
    return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:  # noqa: ANN401 - any part of a job
    if isinstance(value, dict):
        return {
            key: _plain(held)
            for key, held in value.items()
            if not (isinstance(held, float) and math.isinf(held))
        }
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _manifest(plain: PlainText, value: object, folder: Path, places: Places) -> Manifest | None:
    """Return a job's manifest, or that in the file it names; what is wrong is in ``plain``."""
    if not isinstance(value, str):
        return manifest_at(plain, ("dataset",), folder=folder, places=places)
    path = folder / at_home(value)
    if "\0" in value or not places.allows_path(path):
        plain.refuse(("dataset",), f"{value!r:.60} is outside the folders read here")
        return None
    try:
        return read_manifest(path, places=places)
    except DatasetInvalid as error:
        for found in error.violations:
            field = f"dataset.{found.field}".removesuffix(".manifest")
            description = f"{found.description}, in {value:.60}"
            plain.violations.append(FieldViolation(field=field, description=description))
    return None


def _in_own_words(plain: PlainText) -> dict[str, Any]:
    """Return a job's value with SimpleTuner's words said as ``stage`` and ``boundary``."""
    value = dict(plain.value)
    said = {word: value.pop(word) for word in _WORDS if word in value}
    if not said:
        return value
    for word in (_TRAINS, _INVERTS):
        if not isinstance(said.get(word, False), bool):
            plain.refuse((word,), f"is true or false, got {said[word]!r:.60}")
            return value
    strength = said.get(_STRENGTH, DEFAULT_STRENGTH)
    is_number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not is_number or not 0 < strength < 1:
        plain.refuse((_STRENGTH,), f"is a number between 0 and 1, got {strength!r:.60}")
        return value
    if said.get(_TRAINS) is False:
        if others := [word for word in said if word != _TRAINS]:
            plain.refuse((others[0],), f"{_TRAINS} is false")
        return value
    _set_stage(plain, value, said)
    _set_boundary(plain, value, boundary_from_refiner_strength(strength))
    return value


def _set_stage(plain: PlainText, value: dict[str, Any], said: Mapping[str, Any]) -> None:
    stage = "base" if said.get(_INVERTS, False) else "refiner"
    if value.get("stage") == "both" and set(said) == {_STRENGTH}:
        return
    if value.get("stage") is None:
        value["stage"] = stage
    if value["stage"] != stage:
        plain.refuse(("stage",), f"is {value['stage']!r:.60}, and {_say(said)} means {stage}")


def _say(said: Mapping[str, Any]) -> str:
    return " with ".join(f"{word} {json.dumps(held)}" for word, held in said.items())


def _set_boundary(plain: PlainText, value: dict[str, Any], boundary: float) -> None:
    if value.get("boundary") is None:
        value["boundary"] = boundary
    found = value["boundary"]
    is_number = isinstance(found, int | float) and abs(found) <= 1  # else its range is told
    if is_number and not math.isclose(found, boundary, rel_tol=0.0, abs_tol=1e-12):
        plain.refuse(("boundary",), f"is {found}, and {_STRENGTH} means {boundary:g}")

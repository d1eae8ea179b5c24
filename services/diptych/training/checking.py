"""A job's text to a job that can be run, or to everything that is wrong with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diptych.adapters.registry import Registry
from diptych.datasets.manifest_text import MAX_TEXT_BYTES
from diptych.datasets.places import Places
from diptych.datasets.source_spec import FolderSource
from diptych.errors import FieldViolation, JobInvalid
from diptych.models.trained_experts import find_expert
from diptych.training.estimate import estimate
from diptych.training.names import missing_start
from diptych.training.ports import Checked
from diptych.training.rules import check_with_models
from diptych.training.spec import JobSpec
from diptych.training.spec_text import parse_job, to_json

__all__ = ["JobChecks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChecks:
    """Checks what callers send; safe in many threads."""

    folder: Path
    """Where relative paths of datasets begin."""
    places: Places
    """Where the images of a job may lie, which this process, the cache and the worker read."""
    model_places: Places
    """Where its models may lie."""
    home: Path
    """Of what was fetched and what jobs exported."""
    adapters: Registry
    max_nodes: int
    max_devices: int | None = None
    """Of a node; None where that is not known."""

    def __call__(self, text: str, *, tenant: str) -> Checked:
        """Return what ``text`` says, checked against its models as far as they are at hand.

        Raises:
            JobInvalid: Everything that is wrong with it.
            SourceUnavailable: The adapters' store does not answer.
        """
        spec = parse_job(text.encode(), folder=self.folder, places=self.places)
        violations = list(_missing_folders(spec))
        violations += missing_start(spec.adapter.start_from, self.adapters, tenant=tenant)
        if spec.run.num_nodes > self.max_nodes:
            problem = f"{spec.run.num_nodes} exceed the {self.max_nodes} this server starts jobs on"
            violations.append(FieldViolation(field="run.num_nodes", description=problem))
        if self.max_devices is not None and spec.run.num_devices > self.max_devices:
            problem = f"{spec.run.num_devices} exceed the {self.max_devices} of a node here"
            violations.append(FieldViolation(field="run.num_devices", description=problem))
        try:
            facts = check_with_models(
                spec,
                models_dir=self.home / "models",
                places=self.model_places,
                find_expert=partial(find_expert, self.home / "experts", tenant=tenant),
            )
        except JobInvalid as error:
            raise JobInvalid([*error.violations, *violations]) from error
        if violations:
            raise JobInvalid(violations)
        written = to_json(spec)
        if len(written.encode()) > MAX_TEXT_BYTES:
            problem = f"with its defaults the job is longer than {MAX_TEXT_BYTES} bytes"
            raise JobInvalid([FieldViolation(field="job", description=problem)])
        return Checked(name=spec.name, text=written, estimate=estimate(spec, facts))


def _missing_folders(spec: JobSpec) -> Iterator[FieldViolation]:
    """Tell which folders of images are not there, rather than when the job has been waited for."""
    for number, dataset in enumerate(spec.dataset.datasets):
        source = dataset.source
        if dataset.disabled or not isinstance(source, FolderSource):
            continue
        if not Path(source.path).is_dir():
            field = f"dataset.datasets[{number}].source.path"
            yield FieldViolation(field=field, description=f"{source.path:.200}: no such folder")

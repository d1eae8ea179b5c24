"""What a job's rules and its estimate need to know of its models: headers and configurations.

Only what is at hand on this machine is read, and no weights; no torch.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from diptych.datasets.places import EVERYWHERE, Places
from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import DiptychError, FieldViolation, ModelNotFound, SettingInvalid
from diptych.home_paths import at_home
from diptych.models.family import FAMILIES, Family, detect_family
from diptych.models.folder import open_folder
from diptych.models.header import read_header
from diptych.models.parts import Checkpoint
from diptych.models.single_file_layout import read_layout
from diptych.models.trained_experts import PREFIX as EXPERT
from diptych.nano.pair import model_source
from diptych.storage.tensor_header import PICKLE_SUFFIXES
from diptych.training.experts import Expert, expert_sources
from diptych.training.spec import JobSpec
from diptych.training.targets import Shapes

__all__ = ["FindExpert", "JobFacts", "ModelFacts", "read_facts"]

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<rev>[\w./-]+))?")
_S3_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<prefix>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """One model, as far as its headers and configurations tell."""

    source: str
    family: Family
    schedule: NoiseSchedule
    unet: Mapping[str, object]
    """The UNet's configuration."""
    shapes: Mapping[str, Shapes]
    """By part: ``unet``, ``vae``, ``text_encoder_2`` and, except for refiners, ``text_encoder``."""

    @property
    def num_parameters(self) -> Mapping[str, int]:
        """Return how many numbers each part holds."""
        return {
            name: sum(math.prod(shape) for shape in shapes.values())
            for name, shapes in self.shapes.items()
        }

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Return the text encoders it takes prompts from."""
        names = ("text_encoder", "text_encoder_2")
        return tuple(name for name in names if name in self.shapes)


JobFacts = Mapping[Expert, ModelFacts]
"""By expert, those whose models are at hand."""


FindExpert = Callable[[str], Path]
"""Returns the folder of what a job of the same tenant exported; raises ``ModelNotFound``."""


def read_facts(
    spec: JobSpec,
    *,
    models_dir: Path,
    places: Places = EVERYWHERE,
    find_expert: FindExpert | None = None,
) -> tuple[JobFacts, list[FieldViolation]]:
    """Return what is known of the models a job starts from, and what is wrong with them.

    A model that is on a hub or in a bucket and was not fetched before is passed over: whether it
    can be had shows when the job prepares.

    Args:
        spec: The job.
        models_dir: Where models from elsewhere are kept.
        places: What a job's source may make this process read.
        find_expert: Looks up ``experts/NAME``; None passes those over too.
    """
    facts: dict[Expert, ModelFacts] = {}
    violations = {found.field: found for found in _unheeded(spec)}
    for expert, source in expert_sources(spec).items():
        field = "model.refiner" if source == spec.model.refiner else "model.source"
        problem = ""
        try:
            if source.startswith(EXPERT):
                path = find_expert(source.removeprefix(EXPERT)) if find_expert else None
            else:
                path = _at_hand(source, expert, spec.model.revision, models_dir, places)
            if path is not None:
                facts[expert] = _facts(path, source, spec.model.family)
        except SettingInvalid as error:
            field, problem = "model.family", error.violations[0].description
        except DiptychError as error:
            problem = str(error)
        if problem:
            violations[field] = FieldViolation(field=field, description=problem)
    return facts, list(violations.values())


def _unheeded(spec: JobSpec) -> Iterator[FieldViolation]:
    """Tell what is said of the models that no model heeds, whether they are at hand or not."""
    family, revision = spec.model.family, spec.model.revision
    if family is not None and family not in FAMILIES:
        problem = f"unknown family {family!r:.80}, expected one of {', '.join(FAMILIES)}"
        yield FieldViolation(field="model.family", description=problem)
    if revision is not None and not any(map(_takes_revision, expert_sources(spec).values())):
        problem = "is given, and no model is a hub's without a revision of its own"
        yield FieldViolation(field="model.revision", description=problem)


def _takes_revision(source: str) -> bool:
    hub = _HUB_ID.fullmatch(source)
    is_named = source.startswith(("nano/", EXPERT)) or Path(source).exists()
    return hub is not None and hub["rev"] is None and not is_named


def _facts(path: Path, source: str, family: str | None) -> ModelFacts:
    if path.is_dir():
        checkpoint = open_folder(path, source)
    else:
        checkpoint = read_layout(read_header(path), source)
    parts = checkpoint.parts
    known = detect_family(
        source,
        unet=parts["unet"].config,
        text_encoder_2=parts["text_encoder_2"].config,
        scheduler=checkpoint.scheduler,
        has_text_encoder="text_encoder" in parts,
        override=family,
    )
    return ModelFacts(
        source=source,
        family=known,
        schedule=NoiseSchedule.from_config(checkpoint.scheduler, source=source),
        unet=parts["unet"].config,
        shapes=_shapes(checkpoint),
    )


def _shapes(checkpoint: Checkpoint) -> Mapping[str, Shapes]:
    """Return the shapes of every floating tensor, by part; a position table is no parameter."""
    return {
        name: {
            key: stored.span.shape
            for key, stored in part.tensors.items()
            if stored.span.dtype.startswith(("F", "BF"))
        }
        for name, part in checkpoint.parts.items()
    }


def _at_hand(
    source: str, expert: Expert, revision: str | None, models_dir: Path, places: Places
) -> Path | None:
    """Return the folder or file of a model; None where it has yet to be fetched."""
    path = at_home(model_source(source, expert) or source)
    if source == "nano" or source.startswith("nano/"):
        return path
    if match := _S3_URL.fullmatch(source):
        if not places.allows_bucket(match["bucket"], match["prefix"]):
            raise ModelNotFound(source, "may not be read here")
        return None
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelNotFound(source, "is a pickle; only .safetensors weights are read")
    is_local = source.startswith((".", "/", "~")) or path.exists()
    if is_local and not places.allows_path(path):
        raise ModelNotFound(source, "is outside the folders read here")
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return path
    hub = None if is_local or path.suffix == ".safetensors" else _HUB_ID.fullmatch(source)
    if hub is None:
        raise ModelNotFound(source, "no such file or folder")
    if not places.hub:
        raise ModelNotFound(source, "names of the hub may not be read here")
    return _fetched(hub["id"], hub["rev"] or revision or "main", models_dir)


def _fetched(repository: str, revision: str, models_dir: Path) -> Path | None:
    """Return the folder of a hub's model where it was fetched before."""
    try:
        found = try_to_load_from_cache(
            repository, "model_index.json", cache_dir=models_dir / "hub", revision=revision
        )
    except HFValidationError as error:
        raise ModelNotFound(repository, str(error).splitlines()[0]) from error
    return Path(found).parent if isinstance(found, str) else None

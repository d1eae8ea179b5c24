"""Jobs on the nano model; no torch."""

from typing import Any

from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import DatasetSpec, Manifest
from diptych.training.spec import JobSpec, ModelSpec, RunSpec

__all__ = ["job"]


def job(*, run: dict[str, Any] | None = None, kind: Any = "train", **changes: Any) -> JobSpec:
    """Return a job on the nano full-schedule model in float32."""
    dataset = DatasetSpec(id="a", source=FolderSource(path="pictures"), kind=kind)
    said: dict[str, Any] = {
        "name": "huggy",
        "dataset": Manifest(datasets=(dataset,)),
        "model": ModelSpec(source="nano/base-single"),
        "run": RunSpec(**{"num_steps": 1, "precision": "fp32", **(run or {})}),
    }
    return JobSpec(**(said | changes))

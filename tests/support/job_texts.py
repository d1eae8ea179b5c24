"""Jobs for tests: the shortest text that is one, and what a test wants besides."""

from pathlib import Path
from typing import Final

from diptych.training.spec import JobSpec
from diptych.training.spec_text import parse_job

__all__ = ["DATASET", "HERE", "SHORT", "job"]

HERE: Final = Path("/data")
DATASET: Final = "dataset: {datasets: [{id: a, source: {type: folder, path: x}}]}\n"
SHORT: Final = f"name: style\nrun: {{num_steps: 4}}\n{DATASET}"


def job(*lines: str, run: str = "num_steps: 4", dataset: str = DATASET) -> JobSpec:
    """Return the job whose text has ``lines`` beside a name, a dataset and ``run``."""
    text = "\n".join(["name: style", f"run: {{{run}}}", dataset, *lines])
    return parse_job(text.encode(), folder=HERE)

"""A model that trains quickly."""

from typing import Any

import pytest

from diptych.training.spec import ModelSpec
from support.small_experts import make_expert


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what names a model with a small UNet and the nano model's text encoders in a job."""
    folder = make_expert(tmp_path_factory.mktemp("small") / "model")
    return {"model": ModelSpec(source=str(folder))}

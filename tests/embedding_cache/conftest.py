"""What tests of the embedding cache share."""

from pathlib import Path

import pytest

from diptych.models.experts import Expert, Experts, load_experts


@pytest.fixture(scope="session")
def experts(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    """Return the nano pair, float32 on the CPU."""
    cache_dir = tmp_path_factory.mktemp("models")
    return load_experts(str(nano_pair / "base"), str(nano_pair / "refiner"), cache_dir=cache_dir)


@pytest.fixture(scope="session")
def base(experts: Experts) -> Expert:
    """Return the nano pair's base expert."""
    assert experts.base is not None
    return experts.base

"""One server and one pair of diffusers' pipelines for all measurements' tests."""

from collections.abc import Iterator

import pytest

from diptych.bench.direct import Direct
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving, serving
from diptych.bench.steps import load_architecture
from diptych.nano.pair import expert_path


@pytest.fixture(scope="package")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture(scope="package")
def reference() -> Reference:
    return Reference.load(expert_path("base"), expert_path("refiner"))


@pytest.fixture(scope="package")
def direct() -> Direct:
    return Direct.of(load_architecture("nano", random_weights=False, device="cpu"))

"""Both references agree where diffusers can do it all, and leave the pipelines as they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.bench.adapted_reference import AdaptedReference
from diptych.bench.adapter_makers import of_base
from diptych.bench.adapter_sets import AdapterSet, Used, files_of, recipes_for
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NONE = AdapterSet(title="none")


@pytest.fixture(scope="module")
def adapted(
    server: Serving, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> AdaptedReference:
    files = files_of(of_base(server.experts))
    return AdaptedReference(
        pristine=reference, files=files, folder=tmp_path_factory.mktemp("files")
    )


def test_updates_in_the_weights_are_what_diffusers_adds(adapted: AdaptedReference) -> None:
    (recipe,) = recipes_for(1, num_steps=2)
    loaded = AdapterSet(title="", uses=(Used(name="convolutions-8", scale=0.7),))
    theirs = adapted.latents(recipe, loaded)
    added = adapted.latents(recipe, replace(loaded, in_weights=True))
    without = adapted.latents(recipe, NONE)
    assert np.abs(theirs - added).max() < 1e-4 < np.abs(theirs - without).max()


def test_an_adapter_of_the_other_stage_changes_nothing(adapted: AdaptedReference) -> None:
    recipe = replace(recipes_for(1, num_steps=2)[0], boundary=None)
    refiners = AdapterSet(title="", uses=(Used(name="refiner-10"),))
    assert np.array_equal(adapted.latents(recipe, refiners), adapted.latents(recipe, NONE))


def test_files_are_put_where_diffusers_reads_them(adapted: AdaptedReference) -> None:
    (recipe,) = recipes_for(1, num_steps=2)
    adapted.latents(recipe, AdapterSet(title="", uses=(Used(name="attention-4"),)))
    assert Path(adapted.folder / "attention-4.safetensors").is_file()

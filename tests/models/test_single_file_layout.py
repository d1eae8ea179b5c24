"""One file's header says what was built, as the modules' own configurations do."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from diptych.errors import CheckpointInvalid
from diptych.models.header import read_header
from diptych.models.single_file_layout import read_layout


def test_configurations_are_those_of_the_modules(
    original_file: Path, original_modules: dict[str, Any]
) -> None:
    found = read_layout(read_header(original_file), "here").parts["unet"].config
    own = original_modules["unet"].config
    names = ("block_out_channels", "cross_attention_dim", "layers_per_block")
    assert [list(_listed(found[name])) for name in names] == [
        list(_listed(own[name])) for name in names
    ]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model."])
def test_a_file_without_a_part_is_refused(original_file: Path, tmp_path: Path, prefix: str) -> None:
    tensors = load_file(original_file)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    save_file(kept, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointInvalid, match=rf"has no tensors under {prefix}"):
        read_layout(read_header(tmp_path / "cut.safetensors"), "here")

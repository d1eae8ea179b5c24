"""A module is built from a part only when names and shapes agree, before weights are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diptych.errors import CheckpointInvalid
from diptych.models.assembly import assemble, require_class
from diptych.models.header import read_header
from diptych.models.parts import Part, StoredTensor

CPU = torch.device("cpu")


def part_with(tmp_path: Path, tensors: dict[str, torch.Tensor], **config: object) -> Part:
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    stored = {
        key: StoredTensor(path=path, key=key, span=span)
        for key, span in read_header(path).tensors.items()
    }
    return Part(source="here", name="unet", config={"width": 3, **config}, tensors=stored)


def build(config: dict[str, object]) -> nn.Linear:
    return nn.Linear(int(str(config["width"])), 2)


def weights(width: int = 3) -> dict[str, torch.Tensor]:
    return {"weight": torch.ones(2, width), "bias": torch.zeros(2)}


def assembled(part: Part, dtype: torch.dtype = torch.float32) -> nn.Linear:
    return assemble(part, build, device=CPU, dtype=dtype)


def test_builds_a_frozen_module_with_the_weights(tmp_path: Path) -> None:
    module = assembled(part_with(tmp_path, weights()))
    assert torch.equal(module.weight, torch.ones(2, 3))
    assert not module.weight.requires_grad
    assert not module.training


@pytest.mark.parametrize("keep_rows", [True, False])
def test_layers_are_torch_s_own_unless_rows_are_kept_apart(keep_rows: bool, tmp_path: Path) -> None:
    tensors = {f"inner.{name}": tensor for name, tensor in weights().items()}
    module = assemble(
        part_with(tmp_path, tensors),
        lambda config: nn.ModuleDict({"inner": build(config)}),
        device=CPU,
        dtype=torch.float32,
        keep_rows=keep_rows,
    )
    assert (type(module["inner"]) is nn.Linear) is not keep_rows


def test_weights_take_the_precision_asked_for(tmp_path: Path) -> None:
    assert assembled(part_with(tmp_path, weights()), torch.bfloat16).weight.dtype == torch.bfloat16


def test_accepts_names_of_older_releases(tmp_path: Path) -> None:
    tensors = {f"text_model.{name}": tensor for name, tensor in weights().items()}
    assert torch.equal(assembled(part_with(tmp_path, tensors)).weight, torch.ones(2, 3))


def test_accepts_old_names_of_attention(tmp_path: Path) -> None:
    old = {"mid.query.weight": torch.ones(2, 3), "mid.query.bias": torch.zeros(2)}
    module = assemble(
        part_with(tmp_path, old),
        lambda config: nn.ModuleDict({"mid": nn.ModuleDict({"to_q": build(config)})}),
        device=CPU,
        dtype=torch.float32,
    )
    assert set(module.state_dict()) == {"mid.to_q.weight", "mid.to_q.bias"}


def test_ignores_positions_that_older_releases_stored(tmp_path: Path) -> None:
    tensors = weights() | {"embeddings.position_ids": torch.arange(77)}
    assert assembled(part_with(tmp_path, tensors)).weight.shape == (2, 3)


def test_names_missing_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="unet misses tensors bias"):
        assembled(part_with(tmp_path, {"weight": torch.ones(2, 3)}))


def test_names_unknown_tensors(tmp_path: Path) -> None:
    extra = {name: torch.zeros(1) for name in "abcde"}
    with pytest.raises(CheckpointInvalid, match="unknown tensors a, b, c and 2 more"):
        assembled(part_with(tmp_path, weights() | extra))


def test_names_the_tensor_whose_shape_differs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match=r"weight has shape \[2, 5\], expected \[2, 3\]"):
        assembled(part_with(tmp_path, weights(5)))


def test_refuses_a_configuration_that_builds_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="builds no module"):
        assembled(part_with(tmp_path, weights(), width="wide"))


def test_class_may_be_left_out(tmp_path: Path) -> None:
    require_class(part_with(tmp_path, weights()), "_class_name", "Unet")


def test_refuses_another_class(tmp_path: Path) -> None:
    part = replace(part_with(tmp_path, weights()), config={"architectures": ["Bert"]})
    with pytest.raises(CheckpointInvalid, match=r"\['Bert'\], expected CLIP"):
        require_class(part, "architectures", "CLIP")

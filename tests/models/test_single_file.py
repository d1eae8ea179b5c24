"""One file in SDXL's original layout gives the same model as the folder it was made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych.errors import CheckpointInvalid
from diptych.models.experts import Expert, LoadOptions, load_experts
from diptych.models.parts import Checkpoint
from diptych.models.single_file import open_single_file
from diptych.models.text_encoders import PromptRow

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def expert(original_file: Path, nano_pair: Path) -> Expert:
    """Return the expert loaded from the one file."""
    options = LoadOptions(tokenizer_dir=nano_pair / "base" / "tokenizer")
    loaded = load_experts(
        str(original_file), None, cache_dir=original_file.parent, options=options
    ).base
    assert loaded is not None
    return loaded


def opened(original_file: Path, nano_pair: Path) -> Checkpoint:
    return open_single_file(
        original_file, str(original_file), tokenizer_dir=lambda: nano_pair / "base" / "tokenizer"
    )


def edited(original_file: Path, tmp_path: Path, extra: State, *, without: str = "-") -> Path:
    kept = {name: t for name, t in load_file(original_file).items() if not name.startswith(without)}
    path = tmp_path / "edited.safetensors"
    save_file(kept | extra, path)
    return path


@pytest.mark.parametrize("name", ["unet", "vae"])
def test_tensors_are_those_of_the_modules(
    expert: Expert, original_modules: dict[str, Any], name: str
) -> None:
    loaded = {"unet": expert.unet.module, "vae": expert.vae.module}[name].state_dict()
    state = original_modules[name].state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@torch.inference_mode()
def test_prompts_are_embedded_by_the_same_encoders(
    expert: Expert, original_modules: dict[str, Any]
) -> None:
    vocabulary = expert.text.encoders[1].vocabulary
    (embeds,) = expert.text.encode([PromptRow(text="a red circle")])
    ids = torch.tensor(vocabulary.windows(vocabulary.tokenize("a red circle")[0], 1))
    output = original_modules["text_encoder_2"](ids, output_hidden_states=True)
    torch.testing.assert_close(embeds.hidden[..., 64:], output.hidden_states[-2])
    torch.testing.assert_close(embeds.pooled, output.text_embeds)


@torch.inference_mode()
def test_decodes_with_the_scaling_of_sdxl(expert: Expert, original_modules: dict[str, Any]) -> None:
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    pixels = original_modules["vae"].decode(latents / 0.13025).sample
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(expert.vae.decode(latents), expected.astype(np.uint8))


def test_a_refiner_has_the_second_encoder_only(
    original_modules: dict[str, Any],
    to_original: Callable[..., State],
    tmp_path: Path,
    nano_pair: Path,
) -> None:
    parts = [original_modules[name] for name in ("unet", "vae", "text_encoder_2")]
    path = tmp_path / "refiner.safetensors"
    save_file(to_original(*parts), path)
    checkpoint = opened(path, nano_pair)
    assert set(checkpoint.parts) == {"unet", "vae", "text_encoder_2"}
    assert checkpoint.pipeline["requires_aesthetics_score"] is True


def test_second_encoder_pads_with_an_exclamation_mark(original_file: Path, nano_pair: Path) -> None:
    tokenizers = opened(original_file, nano_pair).tokenizers
    assert {name: files.pad_token for name, files in tokenizers.items()} == {
        "text_encoder": None,
        "text_encoder_2": "!",
    }


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ([], {"prediction_type": "epsilon", "timestep_spacing": "leading"}),
        (["v_pred"], {"prediction_type": "v_prediction"}),
        (["v_pred", "ztsnr"], {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        (["edm_mean", "edm_std"], {"_class_name": "EDMDPMSolverMultistepScheduler"}),
    ],
)
def test_marks_in_the_file_tell_its_schedule(
    original_file: Path,
    tmp_path: Path,
    nano_pair: Path,
    marks: list[str],
    expected: dict[str, object],
) -> None:
    path = edited(original_file, tmp_path, {mark: torch.ones(1, 4, 1, 1) for mark in marks})
    assert expected.items() <= opened(path, nano_pair).scheduler.items()


def test_playground_carries_its_latent_statistics(
    original_file: Path, tmp_path: Path, nano_pair: Path
) -> None:
    values = {"edm_mean": torch.arange(4.0).view(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}
    config = opened(edited(original_file, tmp_path, values), nano_pair).parts["vae"].config
    assert (config["latents_mean"], config["scaling_factor"]) == ([0.0, 1.0, 2.0, 3.0], 0.5)


def test_refuses_statistics_that_do_not_match(
    original_file: Path, tmp_path: Path, nano_pair: Path
) -> None:
    values = {"edm_mean": torch.zeros(4), "edm_std": torch.ones(3)}
    with pytest.raises(CheckpointInvalid, match="no common length"):
        opened(edited(original_file, tmp_path, values), nano_pair)


def test_refuses_a_schedule_the_file_does_not_state(
    original_file: Path, tmp_path: Path, nano_pair: Path
) -> None:
    path = edited(original_file, tmp_path, {"edm_vpred.sigma_max": torch.ones(1)})
    with pytest.raises(CheckpointInvalid, match="CosXL"):
        opened(path, nano_pair)


@pytest.mark.parametrize(
    ("without", "problem"),
    [
        ("first_stage_model.", "no tensors under first_stage_model"),
        ("conditioner.embedders.1", "no tensors under conditioner.embedders.1"),
        ("model.diffusion_model.label_emb", "not SDXL's original layout"),
        ("model.diffusion_model.out.2", "not SDXL's original layout"),
    ],
)
def test_refuses_a_file_that_lacks_a_part(
    original_file: Path, tmp_path: Path, nano_pair: Path, without: str, problem: str
) -> None:
    with pytest.raises(CheckpointInvalid, match=problem):
        opened(edited(original_file, tmp_path, {}, without=without), nano_pair)


def test_names_a_tensor_lost_within_a_part(
    original_file: Path, tmp_path: Path, nano_pair: Path
) -> None:
    path = edited(
        original_file, tmp_path, {}, without="model.diffusion_model.middle_block.1.norm.bias"
    )
    options = LoadOptions(tokenizer_dir=nano_pair / "base" / "tokenizer")
    with pytest.raises(CheckpointInvalid, match=r"mid_block\.attentions\.0\.norm\.bias"):
        load_experts(str(path), None, cache_dir=tmp_path, options=options)


def test_asks_for_no_tokenizer_before_the_file_is_found_good(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    asked: list[Path] = []

    def tokenizer_dir() -> Path:
        asked.append(path)
        return path

    with pytest.raises(CheckpointInvalid):
        open_single_file(path, "here", tokenizer_dir=tokenizer_dir)
    assert asked == []

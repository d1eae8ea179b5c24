"""Files are converted without a server, whole or not at all."""

from pathlib import Path

import pytest

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, Target
from diptych.adapters.bundle import digest_of, from_bytes, to_bytes
from diptych.cli.adapter_files import as_upload, convert_file
from diptych.errors import AdapterInvalid, ConversionUnsupported, InvalidRequest, PickleRefused
from diptych.nano.pair import adapter_path
from support.made_adapters import noise

MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
ADAPTER = Adapter(
    targets={
        Target(component=Component.UNET, module=MODULE): LowRank(
            down=noise(2, 4), up=noise(4, 2, seed=1), alpha=1.0
        )
    }
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "huggy.safetensors"
    path.write_bytes(to_bytes(ADAPTER))
    return path


@pytest.mark.parametrize("target_format", ["bundle", "diffusers", "kohya", "peft"])
def test_converted_there_and_back_is_the_same(
    target_format: str, bundle: Path, tmp_path: Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back.safetensors"
    convert_file(bundle, there, target_format)
    convert_file(there, back, "bundle")
    assert digest_of(from_bytes(back)) == digest_of(ADAPTER)


@pytest.mark.parametrize("target_format", ["diffusers", "kohya"])
def test_one_of_both_experts_is_a_folder_for_each_and_itself_again(
    target_format: str, tmp_path: Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back.safetensors"
    convert_file(adapter_path("moon"), there, target_format)
    assert {path.name for path in there.iterdir()} == {"base", "refiner"}
    convert_file(there, back, "bundle")
    assert back.read_bytes() == adapter_path("moon").read_bytes()


def test_callers_family_is_written(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    convert_file(bundle, out, "bundle", family="nano", stage="refiner")
    made_for = from_bytes(out).made_for
    assert (made_for.family, made_for.stage) == ("nano", "refiner")


def test_what_a_format_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    token = LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 4)})
    source, out = tmp_path / "in.safetensors", tmp_path / "out"
    source.write_bytes(to_bytes(Adapter(targets=ADAPTER.targets, tokens={"a.b": token})))
    with pytest.raises(ConversionUnsupported):
        convert_file(source, out, "kohya")
    assert not out.exists()


def test_pickle_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(PickleRefused):
        convert_file(tmp_path / "a.bin", tmp_path / "out", "bundle")


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no file"):
        convert_file(tmp_path / "none", tmp_path / "out", "bundle")


def test_unknown_stage_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="stage"):
        convert_file(bundle, tmp_path / "out", "bundle", stage="middle")


def test_file_is_sent_as_it_is(bundle: Path) -> None:
    assert as_upload(bundle) == bundle


def test_folder_is_sent_as_one_bundle(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    convert_file(bundle, folder, "peft")
    sent = as_upload(folder)
    assert isinstance(sent, bytes)
    assert digest_of(from_bytes(sent)) == digest_of(ADAPTER)


def test_empty_folder_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid):
        as_upload(tmp_path)


def test_nothing_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no file"):
        as_upload(tmp_path / "none")

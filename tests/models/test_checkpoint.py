"""A source is found by its name, wherever it is, or refused by a typed error."""

import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer
from safetensors.torch import save_file

from diptych.digest import Digest
from diptych.errors import (
    CheckpointInvalid,
    ModelNotFound,
    ObjectNotFound,
    PickleRefused,
    SourceUnavailable,
)
from diptych.models.checkpoint import SourceConfig, locate, locate_part, open_checkpoint
from diptych.models.trained_experts import expert_folder, point_at
from diptych.storage.s3 import S3Config
from support.hub import hub

Upload = Callable[..., None]


@pytest.fixture
def config(tmp_path: Path, free_port: int) -> SourceConfig:
    """Return a configuration whose hub is a port where nobody answers."""
    return SourceConfig(cache_dir=tmp_path / "cache", hub_endpoint=f"http://127.0.0.1:{free_port}")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """Yield the address of a real S3 server, moto's."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upload]:
    """Yield a function that uploads a folder to ``s3://models/pair/base``."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="models")

    def upload(folder: Path, *, prefix: str = "pair/base") -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket="models", Key=key, Body=path.read_bytes())

    yield upload
    for entry in client.list_objects_v2(Bucket="models").get("Contents", ()):
        client.delete_object(Bucket="models", Key=entry["Key"])
    client.delete_bucket(Bucket="models")
    client.close()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path) -> SourceConfig:
    """Return a configuration that reaches the S3 server."""
    where = S3Config(endpoint_url=s3_server, region="us-east-1", num_attempts=1)
    return SourceConfig(cache_dir=tmp_path / "cache", s3=where)


def test_a_folder_is_itself(base_folder: Path, config: SourceConfig) -> None:
    assert locate(str(base_folder), config) == base_folder


def test_opens_a_folder(base_folder: Path, config: SourceConfig) -> None:
    assert "unet" in open_checkpoint(str(base_folder), config).parts


@pytest.mark.parametrize(
    "name",
    [
        "/nowhere/model",
        "./nowhere",
        "./models/nowhere",
        "../nowhere/model",
        "~/nowhere",
        ".models/nowhere",
        "model",
        "weights.safetensors",
    ],
)
def test_a_name_of_nothing_is_not_found(config: SourceConfig, name: str) -> None:
    with pytest.raises(ModelNotFound):
        locate(name, config)


@pytest.mark.parametrize("name", ["/models/old.ckpt", "s3://models/old.pt", "some/old.BIN"])
def test_refuses_a_pickle_by_name_unopened(config: SourceConfig, name: str) -> None:
    with pytest.raises(PickleRefused):
        locate(name, config)


def test_refuses_another_kind_of_file(tmp_path: Path, config: SourceConfig) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(CheckpointInvalid, match=r"nor a \.safetensors file"):
        locate(str(tmp_path / "model.onnx"), config)


def test_names_what_is_wrong_with_a_file(tmp_path: Path, config: SourceConfig) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointInvalid, match="has no tensors under"):
        open_checkpoint(str(tmp_path / "lora.safetensors"), config)


@pytest.mark.parametrize("name", ["owner/model", "owner/model@v1.0"])
def test_a_hub_that_does_not_answer_is_unavailable(config: SourceConfig, name: str) -> None:
    with pytest.raises(SourceUnavailable, match="cannot fetch owner/model@"):
        locate(name, config)


@pytest.mark.parametrize("find", [locate, locate_part])
def test_a_name_that_may_be_a_folder_or_an_id_is_told_as_both(
    find: Callable[[str, SourceConfig], Path], config: SourceConfig
) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        find("models/foo", config)
    assert caught.value.detail == (
        "'models/foo' is no file or folder here; as a Hugging Face id: "
        "cannot fetch models/foo@main: no answer, and nothing fetched before"
    )


def test_a_name_that_the_hub_does_not_know_is_told_as_both(tmp_path: Path) -> None:
    with hub() as served:
        config = SourceConfig(cache_dir=tmp_path, hub_endpoint=f"http://{served.address}")
        with pytest.raises(ModelNotFound, match="no such file or folder; as a Hugging Face id: "):
            locate("models/foo", config)


def test_a_hub_that_is_silent_is_given_up_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.models.checkpoint._PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = SourceConfig(
            cache_dir=tmp_path, hub_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        with pytest.raises(SourceUnavailable, match="no answer"):
            locate("models/foo", config)


def test_a_hub_model_fetched_before_is_found_without_the_hub(
    config: SourceConfig, base_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = config.cache_dir / "hub" / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(base_folder, repository / "snapshots" / commit)
    with caplog.at_level(logging.INFO, logger="diptych"):
        assert locate("owner/model", config) == repository / "snapshots" / commit
    assert f"revision main is commit {commit}" in caplog.text


def test_a_hub_model_of_one_part_is_found_by_its_revision(
    config: SourceConfig, base_folder: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = config.cache_dir / "hub" / "models--owner--taesd"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v2").write_text(commit)
    shutil.copytree(base_folder / "vae", repository / "snapshots" / commit)
    assert locate_part("owner/taesd@v2", config) == repository / "snapshots" / commit


def test_mirrors_a_folder_from_s3(bucket: Upload, s3: SourceConfig, base_folder: Path) -> None:
    bucket(base_folder)
    checkpoint = open_checkpoint("s3://models/pair/base", s3)
    paths = {tensor.path for tensor in checkpoint.parts["unet"].tensors.values()}
    assert all(path.is_relative_to(s3.cache_dir) for path in paths)


def test_mirrors_only_what_is_read(bucket: Upload, s3: SourceConfig, base_folder: Path) -> None:
    (base_folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"never fetched")
    bucket(base_folder)
    folder = locate("s3://models/pair/base", s3)
    assert not list(folder.rglob("*.bin"))


def test_refuses_a_pickle_in_s3_unfetched(
    bucket: Upload, s3: SourceConfig, base_folder: Path
) -> None:
    weights = base_folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    bucket(base_folder)
    with pytest.raises(PickleRefused, match=r"unet/diffusion_pytorch_model\.bin"):
        locate("s3://models/pair/base", s3)
    assert not s3.cache_dir.exists()


def test_fetches_one_file_from_s3(bucket: Upload, s3: SourceConfig, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "files/one.safetensors")
    bucket(tmp_path / "files", prefix="single")
    path = locate("s3://models/single/one.safetensors", s3)
    assert path.read_bytes() == (tmp_path / "files/one.safetensors").read_bytes()


@pytest.mark.usefixtures("bucket")
def test_an_empty_prefix_is_not_found(s3: SourceConfig) -> None:
    with pytest.raises(ModelNotFound, match="no object has that prefix"):
        locate("s3://models/none", s3)


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_not_found(s3: SourceConfig) -> None:
    with pytest.raises(ObjectNotFound):
        locate("s3://other-bucket/none", s3)


def test_a_single_file_without_a_tokenizer_needs_the_hub(
    config: SourceConfig, tmp_path: Path, original_file: Path
) -> None:
    with pytest.raises(SourceUnavailable, match="clip-vit-large-patch14"):
        open_checkpoint(str(original_file), config)


def test_an_expert_that_was_trained_here_is_what_its_name_means(
    base_folder: Path, config: SourceConfig, tmp_path: Path
) -> None:
    here = replace(config, experts_dir=tmp_path / "experts")
    digest = Digest.of_bytes(b"weights")
    folder = expert_folder(tmp_path / "experts", "huggy", digest)
    shutil.copytree(base_folder, folder)
    point_at(tmp_path / "experts", "huggy", digest)
    assert open_checkpoint("experts/huggy", here).folder == folder
    with pytest.raises(ModelNotFound, match="experts/moon"):
        locate("experts/moon", here)


def test_another_tenants_expert_is_not_found(config: SourceConfig, tmp_path: Path) -> None:
    experts, digest = tmp_path / "experts", Digest.of_bytes(b"weights")
    folder = expert_folder(experts, "huggy", digest, tenant="lab")
    folder.mkdir(parents=True)
    point_at(experts, "huggy", digest, tenant="lab")
    assert locate("experts/huggy", replace(config, experts_dir=experts, tenant="lab")) == folder
    with pytest.raises(ModelNotFound, match="experts/huggy"):
        locate("experts/huggy", replace(config, experts_dir=experts))

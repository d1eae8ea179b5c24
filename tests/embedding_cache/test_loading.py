"""The service with the nano pair's encoders: real embeddings, over loopback, that last."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import ImageInput, ImagesCall, PromptsCall
from diptych.digest import Digest
from diptych.embedding_cache.loading import load_encoders
from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.embeddings.entry import read_entry
from diptych.embeddings.key import Preprocessing
from diptych.errors import ImageInvalid, InvalidRequest, PromptTooLong, SettingInvalid
from diptych.models.trained_experts import expert_folder, point_at
from diptych.nano.pair import expert_path
from diptych.rpc.channel import ChannelConfig
from support.pictures import png

SQUARE = Preprocessing(resized=(128, 128), crop=(0, 0, 128, 128))


def settings(home: Path, **own: object) -> Settings:
    cache = CacheSettings(**{"port": 0, "metrics_port": None} | own)  # type: ignore[arg-type]
    return Settings(home=home, cache=cache)


def client_of(server: BackgroundCache) -> EmbeddingCacheClient:
    return EmbeddingCacheClient(ClientConfig(channel=ChannelConfig(address=server.address)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[BackgroundCache]:
    server = BackgroundCache(settings(home))
    server.start(timeout_s=100.0)
    yield server
    server.stop()


@pytest.fixture
def client(server: BackgroundCache) -> Iterator[EmbeddingCacheClient]:
    with client_of(server) as client:
        yield client


def shapes(value: bytes | None) -> dict[str, tuple[int, ...]]:
    assert value is not None
    return {name: tensor.shape for name, tensor in read_entry(value).tensors.items()}


def test_prompt_becomes_hidden_states_and_a_pooled_one(client: EmbeddingCacheClient) -> None:
    (one,) = client.encode_prompts(PromptsCall(prompts=["a red heart"], return_values=True))
    assert shapes(one.value)["hidden"][0] == 77
    assert len(shapes(one.value)["pooled"]) == 1


def test_image_becomes_its_posterior(client: EmbeddingCacheClient) -> None:
    image = ImageInput(data=png(128, 128, seed=1), preprocessing=SQUARE)
    (one,) = client.encode_images(ImagesCall(images=[image], return_values=True))
    assert shapes(one.value)["mean"] == shapes(one.value)["std"]


def test_second_stage_finds_what_the_first_encoded(client: EmbeddingCacheClient) -> None:
    prompts = PromptsCall(prompts=["a green ring", "a blue star"], stage="base")
    images = [ImageInput(data=png(128, 128, seed=2), preprocessing=SQUARE)]
    first = client.encode_prompts(prompts) + client.encode_images(ImagesCall(images=images))
    before = sum(one.num_encoded for one in client.stats().encodings)
    other = PromptsCall(prompts=prompts.prompts, stage="refiner")
    second = client.encode_prompts(other) + client.encode_images(
        ImagesCall(images=images, stage="refiner")
    )
    assert [one.key for one in second] == [one.key for one in first]
    assert sum(one.num_encoded for one in client.stats().encodings) == before


def test_keys_are_known_without_asking_for_each(client: EmbeddingCacheClient) -> None:
    texts = ["a violet ring", "", None, "a violet ring and " * 40]
    data, flipped = png(128, 128, seed=5), replace(SQUARE, is_flipped=True)
    images = [ImageInput(data=data, preprocessing=how) for how in (SQUARE, flipped)]
    encoders = client.encoders()
    assert list(encoders) == ["base", "refiner"]
    for stage, own in encoders.items():
        call = PromptsCall(prompts=texts, stage=stage, long_prompt="truncate")
        told = client.encode_prompts(call) + client.encode_images(
            ImagesCall(images=images, stage=stage)
        )
        digest = Digest.of_bytes(data)
        keys = [own.prompt_record(text).key() for text in texts]
        keys += [own.image_record(digest, how).key() for how in (SQUARE, flipped)]
        assert [one.key for one in told] == keys


def test_encoders_tell_the_shapes_of_what_they_make(client: EmbeddingCacheClient) -> None:
    own = client.encoders()["base"]
    image = ImageInput(data=png(128, 128, seed=1), preprocessing=SQUARE)
    (prompt,) = client.encode_prompts(PromptsCall(prompts=["a red heart"], return_values=True))
    (picture,) = client.encode_images(ImagesCall(images=[image], return_values=True))
    side = 128 // own.latents.pixels_per_latent
    assert shapes(prompt.value) == {
        "hidden": (own.window_tokens, own.hidden_width),
        "pooled": (own.pooled_width,),
    }
    assert shapes(picture.value)["mean"] == (own.latents.channels, side, side)


def test_bad_image_is_named_and_its_neighbours_call_succeeds(client: EmbeddingCacheClient) -> None:
    bad = ImageInput(data=png(128, 128, seed=3)[:500], preprocessing=SQUARE, label="cut.png")
    with pytest.raises(ImageInvalid):
        client.encode_images(ImagesCall(images=[bad]))
    good = ImageInput(data=png(128, 128, seed=3), preprocessing=SQUARE)
    assert client.encode_images(ImagesCall(images=[good]))[0].source == "encoded"


def test_prompt_beyond_the_window_is_refused_unless_it_may_be_cut(
    client: EmbeddingCacheClient,
) -> None:
    long = "a red heart and " * 40
    with pytest.raises(PromptTooLong, match=r"prompts\[0\].text"):
        client.encode_prompts(PromptsCall(prompts=[long]))
    assert client.encode_prompts(PromptsCall(prompts=[long], long_prompt="truncate"))


def test_layers_that_the_encoders_have_not_are_refused(client: EmbeddingCacheClient) -> None:
    with pytest.raises(InvalidRequest, match="clip_skip"):
        client.encode_prompts(PromptsCall(prompts=["a"], clip_skip=60))


def test_embeddings_outlive_the_server(home: Path, client: EmbeddingCacheClient) -> None:
    call = PromptsCall(prompts=["a heart that lasts"], return_values=True)
    other = home / "other"
    values = []
    for _ in range(2):
        server = BackgroundCache(settings(other))
        server.start(timeout_s=100.0)
        with client_of(server) as own:
            values.append(own.encode_prompts(call)[0])
        server.stop()
    assert [one.source for one in values] == ["encoded", "disk"]
    assert values[0].value == values[1].value


def test_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    server = BackgroundCache(settings(tmp_path, device="cuda:7"))
    with pytest.raises(SettingInvalid, match=r"cache\.device"):
        server.start(timeout_s=60.0)


def test_encoders_of_an_expert_that_was_trained_here_are_found_by_its_name(tmp_path: Path) -> None:
    digest = Digest.of_bytes(b"weights")
    folder = expert_folder(tmp_path / "experts", "huggy", digest)
    shutil.copytree(expert_path("base-single"), folder)
    point_at(tmp_path / "experts", "huggy", digest)
    encoders = load_encoders(settings(tmp_path, base="experts/huggy"))
    assert encoders[0].source == "experts/huggy"

"""Encoders are believed only where their keys are computed here as they are there."""

import pytest

from diptych.clients.encoder_messages import read_encoders
from diptych.embedding_cache.answers import encoders_answer
from diptych.embedding_cache.ports import Stage
from diptych.embeddings import key as keys
from diptych.embeddings.encoders import EncoderIdentities, LatentSpace
from diptych.embeddings.key import EncoderIdentity
from diptych.errors import DigestMismatch, ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb

ENCODERS = EncoderIdentities(
    family="playground-v2.5",
    prompt=EncoderIdentity(fingerprint="sha256:aa", precision="bfloat16", stored="float16"),
    image=EncoderIdentity(fingerprint="sha256:bb", precision="float32", stored="float32"),
    window_tokens=77,
    hidden_width=2048,
    pooled_width=1280,
    latents=LatentSpace(
        channels=2,
        pixels_per_latent=8,
        scaling_factor=0.5,
        latents_mean=(-1.6574, 0.886),
        latents_std=(8.4927, 5.9022),
    ),
)


@pytest.fixture
def answer() -> pb.GetEncodersResponse:
    return encoders_answer({Stage.REFINER: ENCODERS})


def test_everything_arrives_as_it_was_sent(answer: pb.GetEncodersResponse) -> None:
    assert read_encoders(answer) == {"refiner": ENCODERS}


def test_server_whose_keys_are_of_another_version_is_refused(
    answer: pb.GetEncodersResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "ENCODING", keys.ENCODING + 1)
    with pytest.raises(DigestMismatch):
        read_encoders(answer)


def test_server_whose_images_have_other_keys_is_refused(answer: pb.GetEncodersResponse) -> None:
    answer.encoders[0].image_probe = bytes(32)
    with pytest.raises(DigestMismatch):
        read_encoders(answer)


def test_numbers_that_there_are_not_are_refused(answer: pb.GetEncodersResponse) -> None:
    answer.encoders[0].image.stored = "float4"
    with pytest.raises(ResponseCorrupt, match="float4"):
        read_encoders(answer)


def test_stage_of_a_later_version_is_passed_over(answer: pb.GetEncodersResponse) -> None:
    answer.encoders[0].stage = 9  # type: ignore[assignment] # of no enum here
    assert read_encoders(answer) == {}

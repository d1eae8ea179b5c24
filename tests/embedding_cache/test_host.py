"""Stages share one device; images are decoded beside it and refused when too many wait."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry

from diptych.digest import Digest
from diptych.embedding_cache.batching import BatchConfig
from diptych.embedding_cache.encoding import ImageWork, Work
from diptych.embedding_cache.host import Device, StageEncoders
from diptych.embedding_cache.ports import PromptWish
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.key import EncoderIdentity, ImageRecord, Preprocessing, PromptRecord
from diptych.errors import ImageInvalid, QueueFull
from diptych.telemetry.cache_metrics import CacheMetrics
from support.identities import identities_of
from support.pictures import png

SQUARE = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))


class Encoders:
    """Makes of a work its text, or its pixels' sum; waits where it is told to."""

    def __init__(self, name: str) -> None:
        self.prompt_identity = EncoderIdentity(
            fingerprint=f"{name}-text", precision="float32", stored="float32"
        )
        self.image_identity = EncoderIdentity(
            fingerprint=f"{name}-vae", precision="float32", stored="float32"
        )
        self.go = threading.Event()
        self.go.set()

    @property
    def identities(self) -> EncoderIdentities:
        return identities_of(self.prompt_identity, self.image_identity)

    def prompt_record(self, text: str | None, **_: object) -> PromptRecord:
        return PromptRecord(encoder=self.prompt_identity, text=text)

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        return ImageRecord(encoder=self.image_identity, image=image, preprocessing=preprocessing)

    def encode(self, works: Sequence[Work]) -> list[bytes]:
        self.go.wait(10)
        return [
            str(work.pixels.shape).encode()
            if isinstance(work, ImageWork)
            else f"{self.prompt_identity.fingerprint}:{work.text}".encode()
            for work in works
        ]


@pytest.fixture
def device() -> Iterator[Device]:
    metrics = CacheMetrics(CollectorRegistry())
    device = Device(metrics, BatchConfig(max_waiting=2))
    yield device
    device.close()


@pytest.fixture
def encoders() -> Encoders:
    return Encoders("base")


@pytest.fixture
def stage(device: Device, encoders: Encoders) -> StageEncoders:
    return StageEncoders(encoders, device)  # type: ignore[arg-type]


def test_each_stage_encodes_with_its_own_encoders(device: Device) -> None:
    stages = [StageEncoders(Encoders(name), device) for name in ("one", "two")]  # type: ignore[arg-type]
    made = [one.encode_prompt(one.prompt_record(PromptWish(text="a"))).result(10) for one in stages]
    assert made == [b"one-text:a", b"two-text:a"]


def test_image_is_decoded_and_encoded(stage: StageEncoders) -> None:
    record = stage.image_record(Digest.of_bytes(b"x"), SQUARE)
    assert stage.encode_image(record, png(64, 64)).result(10) == b"(64, 64, 3)"


def test_image_that_cannot_be_decoded_fails_alone(stage: StageEncoders) -> None:
    record = stage.image_record(Digest.of_bytes(b"x"), SQUARE)
    with pytest.raises(ImageInvalid, match=r"image a\.png: "):
        stage.encode_image(record, b"no picture", label="a.png").result(10)


def test_images_beyond_those_that_may_wait_are_refused(
    stage: StageEncoders, encoders: Encoders
) -> None:
    encoders.go.clear()
    records = [stage.image_record(Digest.of_bytes(bytes([n])), SQUARE) for n in range(3)]
    waiting = [stage.encode_image(record, png(64, 64)) for record in records[:2]]
    with pytest.raises(QueueFull):
        stage.encode_image(records[2], png(64, 64))
    encoders.go.set()
    assert all(one.result(10) for one in waiting)


def test_what_is_made_is_counted_and_no_longer_in_flight(
    stage: StageEncoders, device: Device
) -> None:
    stage.encode_prompt(stage.prompt_record(PromptWish(text="a"))).result(10)
    assert (device.counts()[0].num_encoded, device.in_flight()["prompt"]) == (1, 0)

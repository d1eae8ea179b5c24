"""Whatever an embedding depends on is in its key, and nothing else is."""

from dataclasses import replace

import pytest

from diptych.digest import Digest
from diptych.embeddings.key import EncoderIdentity, ImageRecord, Preprocessing, PromptRecord

ENCODER = EncoderIdentity(fingerprint="sha256:aa", precision="float32", stored="float32")
PROMPT = PromptRecord(encoder=ENCODER, text="a red heart")
IMAGE = ImageRecord(
    encoder=ENCODER,
    image=Digest.of_bytes(b"pixels"),
    preprocessing=Preprocessing(resized=(128, 128), crop=(0, 0, 128, 128)),
)


def test_equal_records_have_equal_keys() -> None:
    assert replace(PROMPT).key() == PROMPT.key()
    assert replace(IMAGE).key() == IMAGE.key()


def test_the_order_of_token_overrides_does_not_matter() -> None:
    one = replace(PROMPT, token_overrides={"<a>": "1", "<b>": "2"})
    other = replace(PROMPT, token_overrides={"<b>": "2", "<a>": "1"})
    assert one.key() == other.key()


@pytest.mark.parametrize(
    "other",
    [
        replace(PROMPT, text="a red hearT"),
        replace(PROMPT, text="a red heart "),
        replace(PROMPT, text=None),
        replace(PROMPT, text=""),
        replace(PROMPT, num_windows=2),
        replace(PROMPT, is_chunked=True),
        replace(PROMPT, clip_skip=1),
        replace(PROMPT, token_overrides={"<a>": "1"}),
        replace(PROMPT, weights=("sha256:bb@1.0",)),
        replace(PROMPT, encoder=replace(ENCODER, fingerprint="sha256:ab")),
        replace(PROMPT, encoder=replace(ENCODER, precision="bfloat16")),
        replace(PROMPT, encoder=replace(ENCODER, stored="float16")),
    ],
)
def test_whatever_changes_a_prompts_embedding_changes_its_key(other: PromptRecord) -> None:
    assert other.key() != PROMPT.key()


@pytest.mark.parametrize(
    "changed",
    [
        {"resized": (128, 129)},
        {"crop": (0, 1, 128, 127)},
        {"is_flipped": True},
        {"resample": "bicubic"},
        {"orientation": "ignore"},
        {"colour": "ignore"},
        {"background": (0, 0, 0)},
        {"frame": 1},
    ],
)
def test_every_step_of_preprocessing_is_in_the_key(changed: dict[str, object]) -> None:
    preprocessing = replace(IMAGE.preprocessing, **changed)  # type: ignore[arg-type]
    assert replace(IMAGE, preprocessing=preprocessing).key() != IMAGE.key()


def test_one_byte_of_the_image_is_in_the_key() -> None:
    assert replace(IMAGE, image=Digest.of_bytes(b"pixelS")).key() != IMAGE.key()


def test_keys_stay_what_they_were() -> None:
    assert PROMPT.key().hex[:16] == "46ad0a5912338c05"
    assert IMAGE.key().hex[:16] == "099f3f60391315fc"

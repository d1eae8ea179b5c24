"""With a stage's identities a caller computes the keys that its encoders' results have."""

from dataclasses import replace

from diptych.digest import Digest
from diptych.embeddings.key import EncoderIdentity, ImageRecord, Preprocessing, PromptRecord
from support.identities import identities_of

TEXT = EncoderIdentity(fingerprint="sha256:aa", precision="bfloat16", stored="bfloat16")
VAE = EncoderIdentity(fingerprint="sha256:bb", precision="float32", stored="float16")
SQUARE = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))
ENCODERS = identities_of(TEXT, VAE)


def test_texts_are_of_the_text_encoders() -> None:
    assert ENCODERS.prompt_record("a") == PromptRecord(encoder=TEXT, text="a")


def test_images_are_of_the_autoencoder() -> None:
    image = Digest.of_bytes(b"x")
    own = ENCODERS.image_record(image, SQUARE)
    assert own == ImageRecord(encoder=VAE, image=image, preprocessing=SQUARE)


def test_probes_differ_as_soon_as_an_encoder_does() -> None:
    other = replace(VAE, stored="float32")
    prompt, image = ENCODERS.probes
    other_prompt, other_image = identities_of(TEXT, other).probes
    assert (prompt == other_prompt, image == other_image) == (True, False)

"""What is known of an image's bytes."""

import io

import pytest
from PIL import Image

from diptych.datasets.facts import facts_of
from diptych.digest import Digest
from support.made_pictures import natural_picture, picture_bytes


def test_a_picture_is_known_by_digest_and_size() -> None:
    data = picture_bytes(1, width=96, height=64)
    facts = facts_of(data, examine=False)
    assert (facts.digest, facts.width, facts.height) == (Digest.of_bytes(data), 96, 64)
    assert (facts.problem, facts.is_examined, facts.perceptual) == ("", False, None)


def test_a_turned_picture_has_its_upright_size() -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64)).save(stream, "JPEG", exif=exif)
    facts = facts_of(stream.getvalue(), examine=False)
    assert (facts.width, facts.height) == (64, 96)


@pytest.mark.parametrize("data", [b"", b"no picture", picture_bytes(1)[:200]])
def test_what_is_no_picture_says_why(data: bytes) -> None:
    facts = facts_of(data, examine=False)
    assert facts.problem != ""
    assert facts.digest == Digest.of_bytes(data)


def test_a_picture_whose_pixels_are_damaged_is_found_when_it_is_examined() -> None:
    data = bytearray(picture_bytes(1))
    data[len(data) // 2] ^= 0xFF
    assert facts_of(bytes(data), examine=False).problem == ""
    assert facts_of(bytes(data), examine=True).problem != ""


def test_an_examined_picture_has_a_hash_and_its_damage() -> None:
    stream = io.BytesIO()
    natural_picture(0).save(stream, "JPEG", quality=10)
    facts = facts_of(stream.getvalue(), examine=True)
    assert facts.perceptual is not None
    assert "JPEG quality about" in facts.damage


def test_an_animation_counts_its_frames() -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert facts_of(stream.getvalue(), examine=False).num_frames == 3

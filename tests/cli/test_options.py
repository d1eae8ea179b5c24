"""Flags mean what they say."""

import pytest

from diptych.cli.options import GENERATE_FLAGS, REFINE_FLAGS, parse_size
from diptych.errors import InvalidRequest
from diptych.v1.inference_pb2 import GenerateRequest, RefineRequest


@pytest.mark.parametrize("text", ["1024x768", " 1024X768 ", "1024×768"])  # noqa: RUF001
def test_size_is_width_by_height(text: str) -> None:
    assert parse_size(text) == (1024, 768)


@pytest.mark.parametrize("text", ["", "1024", "x768", "-8x8", "1e3x8", "8x8x8", "99999999x8"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"size: .* is not WxH"):
        parse_size(text)


@pytest.mark.parametrize(
    ("flags", "message", "own"),
    [
        (GENERATE_FLAGS, GenerateRequest, {"out", "size"}),
        (REFINE_FLAGS, RefineRequest, {"out", "latents", "image.data", "image.strength"}),
    ],
)
def test_every_flag_names_a_field_that_exists(
    flags: dict[str, str], message: type[GenerateRequest | RefineRequest], own: set[str]
) -> None:
    known = set(message.DESCRIPTOR.fields_by_name)
    assert {field.split(".")[0] for field in flags if field not in own} <= known

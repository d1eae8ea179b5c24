"""Messages become orders, or everything that is wrong with them."""

from typing import Any

import pytest

from diptych.embedding_cache.ports import CacheMode, NeedsConfig, Stage
from diptych.embedding_cache.wire import (
    checked_keys,
    image_order,
    images_order,
    prompts_order,
    warm_order,
)
from diptych.errors import InvalidRequest
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import types_pb2

HOSTED = (Stage.BASE, Stage.REFINER)

SIZES: dict[str, Any] = {
    "resized_width": 64,
    "resized_height": 64,
    "crop_width": 64,
    "crop_height": 64,
}


def fields_of(caught: pytest.ExceptionInfo[InvalidRequest]) -> list[str]:
    return [violation.field for violation in caught.value.violations]


def test_open_fields_take_their_defaults() -> None:
    order = prompts_order(pb.EncodePromptsRequest(prompts=[pb.PromptInput(text="a")]))
    assert (order.stage, order.mode, order.with_values) == (None, CacheMode.READ_THROUGH, False)
    assert (order.wishes[0].text, order.wishes[0].long_prompt) == ("a", "error")


def test_bypass_has_values_without_asking() -> None:
    message = pb.EncodeImagesHeader(mode=pb.CACHE_MODE_BYPASS)
    assert images_order(message).with_values


def test_call_without_prompts_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="0 texts"):
        prompts_order(pb.EncodePromptsRequest())


def test_values_that_no_enum_has_are_refused_together() -> None:
    message = pb.EncodePromptsRequest(
        prompts=[pb.PromptInput(text="a")],
        stage=7,  # type: ignore[arg-type]
        mode=8,  # type: ignore[arg-type]
        long_prompt=9,  # type: ignore[arg-type]
    )
    with pytest.raises(InvalidRequest) as caught:
        prompts_order(message)
    assert sorted(fields_of(caught)) == ["long_prompt", "mode", "stage"]


def test_preprocessing_is_read_as_it_was_sent() -> None:
    message = pb.ImageInput(
        size_bytes=1,
        preprocessing=pb.ImagePreprocessing(**SIZES, resample="area", background=0x010203, frame=7),
    )
    found = image_order(message, 3, 10).preprocessing
    assert found.frame == 7
    assert (found.resample, found.background, found.crop) == ("area", (1, 2, 3), (0, 0, 64, 64))


def test_background_is_white_unless_it_is_sent() -> None:
    message = pb.ImageInput(size_bytes=1, preprocessing=pb.ImagePreprocessing(**SIZES))
    assert image_order(message, 0, 10).preprocessing.background == (255, 255, 255)


def test_everything_wrong_with_an_image_is_named() -> None:
    message = pb.ImageInput(
        size_bytes=11,
        sha256=b"short",
        preprocessing=pb.ImagePreprocessing(
            **SIZES | {"crop_width": 60}, resample="magic", background=1 << 25
        ),
    )
    with pytest.raises(InvalidRequest) as caught:
        image_order(message, 3, 10)
    assert fields_of(caught) == [
        "images[3].size_bytes",
        "images[3].sha256",
        "images[3].preprocessing.crop_width",
        "images[3].preprocessing.resample",
        "images[3].preprocessing.background",
    ]


def test_too_many_pixels_are_refused() -> None:
    sizes: dict[str, Any] = {
        "resized_width": 1 << 14,
        "resized_height": 1 << 14,
        "crop_width": 8,
        "crop_height": 8,
    }
    message = pb.ImageInput(size_bytes=1, preprocessing=pb.ImagePreprocessing(**sizes))
    with pytest.raises(InvalidRequest, match=r"exceed the limit of .* pixels"):
        image_order(message, 0, 10)


def test_keys_come_once_in_their_order() -> None:
    raw = [bytes([n]) * 32 for n in (2, 1, 2)]
    assert [key.hex[:2] for key in checked_keys(raw)] == ["02", "01"]


@pytest.mark.parametrize("keys", [[], [b"short"], [b"x" * 32] * 65_537])
def test_keys_that_cannot_be_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(InvalidRequest, match="keys"):
        checked_keys(keys)


def test_stages_to_warm_up_for_are_named_once() -> None:
    message = pb.WarmDatasetRequest(
        manifest="a: 1", stages=[pb.ENCODER_STAGE_REFINER, pb.ENCODER_STAGE_REFINER]
    )
    assert warm_order(message, hosted=HOSTED).stages == (Stage.REFINER,)


def test_warm_up_that_says_no_more_is_for_every_stage_and_one_epoch() -> None:
    order = warm_order(pb.WarmDatasetRequest(manifest="a: 1"), hosted=HOSTED)
    assert (order.manifest, order.stages, order.needs) == ("a: 1", HOSTED, NeedsConfig())


def test_what_a_run_needs_is_read_as_it_was_sent() -> None:
    message = pb.WarmDatasetRequest(
        manifest="a: 1",
        batch_size=4,
        num_epochs=3,
        long_prompt=types_pb2.LONG_PROMPT_CHUNK,
        force=True,
    )
    expected = NeedsConfig(batch_size=4, num_epochs=3, long_prompt="chunk", force=True)
    assert warm_order(message, hosted=HOSTED).needs == expected


def test_everything_wrong_with_a_warm_up_is_named() -> None:
    message = pb.WarmDatasetRequest(
        manifest="a: 1",
        batch_size=-1,
        num_epochs=1001,
        long_prompt=types_pb2.LONG_PROMPT_ERROR,
    )
    with pytest.raises(InvalidRequest) as caught:
        warm_order(message, hosted=HOSTED)
    assert sorted(fields_of(caught)) == ["batch_size", "long_prompt", "num_epochs"]


def test_empty_manifest_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="manifest"):
        warm_order(pb.WarmDatasetRequest(), hosted=HOSTED)

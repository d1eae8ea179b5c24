"""Adapters as people type them."""

import pytest

from diptych.cli.adapter_choices import noted_adapters, parse_adapters, parse_sources
from diptych.cli.refusals import Refusals
from diptych.clients.calls import AdapterChoice
from diptych.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("huggy", AdapterChoice(adapter="huggy")),
        ("huggy:v2@0.8", AdapterChoice(adapter="huggy:v2", scale=0.8)),
        ("a/b@-1", AdapterChoice(adapter="a/b", scale=-1.0)),
        (
            "huggy@0.8,unet.down=0.5,refiner=0",
            AdapterChoice(adapter="huggy", scale=0.8, parts={"unet.down": 0.5, "refiner": 0.0}),
        ),
        ("huggy,force", AdapterChoice(adapter="huggy", force=True)),
        (f"sha256:{'a' * 64}@2", AdapterChoice(adapter=f"sha256:{'a' * 64}", scale=2.0)),
    ],
)
def test_text_means(text: str, choice: AdapterChoice) -> None:
    assert parse_adapters([text]) == (choice,)


@pytest.mark.parametrize("text", ["a@", "a@x", "a,unet", "a,unet=", "a,unet=1,unet=2", "a,=1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"adapters\[0\]"):
        parse_adapters([text])


def test_every_wrong_text_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_adapters(["a@x", "b", "c@y"])
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["adapters[0].scale", "adapters[2].scale"]


def test_wrong_text_is_noted_with_the_commands_other_refusals() -> None:
    refusals = Refusals()
    assert (noted_adapters(["a@x"], refusals), bool(refusals)) == ((), True)


def test_sources_without_a_weight_have_one() -> None:
    assert parse_sources(["a", "b:v2@0.5"]) == {"a": 1.0, "b:v2": 0.5}


def test_source_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="comes twice"):
        parse_sources(["a@0.5", "a"])

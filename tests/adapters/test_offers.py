"""Of what a source offers only what an adapter is made of is ever taken."""

import pytest

from diptych.adapters.offers import Offer, is_wanted, wanted
from diptych.errors import AdapterInvalid, AdapterNotFound, PickleRefused


def offers(*names: str) -> list[Offer]:
    return [Offer(name=name, read=lambda: iter([b""])) for name in names]


def chosen(*names: str) -> list[str]:
    return [offer.name for offer in wanted("here", offers(*names))]


@pytest.mark.parametrize(
    "name",
    ["a.safetensors", "adapter_config.json", "unet/adapter_model.safetensors"],
)
def test_wants_weights_and_their_configuration(name: str) -> None:
    assert is_wanted(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.bin", "a.pt", "config.json", "README.md", "other/a.safetensors", "/a.safetensors"),
        *("../a.safetensors", "unet/../a.safetensors", "unet/x/a.safetensors", ""),
        *("a\0.safetensors", "a" * 300 + ".safetensors"),
    ],
)
def test_wants_nothing_else(name: str) -> None:
    assert not is_wanted(name)


def test_takes_what_is_wanted_of_a_folder() -> None:
    assert chosen("a.safetensors", "a.bin", "README.md") == ["a.safetensors"]


def test_an_empty_folder_is_not_found() -> None:
    with pytest.raises(AdapterNotFound):
        chosen()


def test_a_folder_of_pickles_is_refused() -> None:
    with pytest.raises(PickleRefused, match=r"weights\.bin is a pickle"):
        chosen("README.md", "weights.bin")


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json"])
def test_a_folder_without_weights_is_refused(name: str) -> None:
    with pytest.raises(AdapterInvalid, match=r"holds no \.safetensors file"):
        chosen(name)


def test_a_folder_of_many_adapters_is_refused() -> None:
    with pytest.raises(AdapterInvalid, match="name one of them"):
        chosen(*(f"{number}.safetensors" for number in range(17)))

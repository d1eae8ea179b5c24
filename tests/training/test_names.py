"""The name of what a job made means it once the job has succeeded."""

import json
from pathlib import Path

import pytest

from diptych.adapters.registry import Registry
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, InvalidRequest, SettingInvalid
from diptych.training.names import ResultNames, open_adapters
from support.shelves import card_of

BUNDLE = b"an adapter"
DIGEST = Digest.of_bytes(BUNDLE)
LORA = json.dumps({"method": "lora"})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = open_adapters(tmp_path, url=None, s3_endpoint=None)
    registry.keep(BUNDLE, card_of(BUNDLE), tenant="lab")
    return registry


def result(**digests: str) -> dict[str, object]:
    return {"name": "huggy", "digests": digests}


def test_adapter_gets_its_name_and_again_without_harm(registry: Registry) -> None:
    names = ResultNames(registry)
    for _ in range(2):
        names.point("lab", LORA, result(base=str(DIGEST), refiner=str(DIGEST)))
    assert registry.resolve("huggy", tenant="lab") == DIGEST


def test_name_is_taken_from_what_it_meant_before(registry: Registry) -> None:
    registry.publish("huggy", b"older", card_of(b"older"), tenant="lab")
    ResultNames(registry).point("lab", LORA, result(single=str(DIGEST)))
    assert registry.resolve("huggy", tenant="lab") == DIGEST


def test_name_is_the_tenants_own(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound):
        ResultNames(registry).point("other", LORA, result(single=str(DIGEST)))


def test_result_of_two_adapters_has_no_name(registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match="2 adapters"):
        ResultNames(registry).point("lab", LORA, result(base=str(DIGEST), refiner="sha256:1"))


def test_whole_expert_was_named_by_its_worker(registry: Registry) -> None:
    ResultNames(registry).point("lab", json.dumps({"method": "full"}), result(single="sha256:1"))
    with pytest.raises(AdapterNotFound):
        registry.resolve("huggy", tenant="lab")


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("a file")
    with pytest.raises(SettingInvalid, match="home"):
        open_adapters(tmp_path, url=None, s3_endpoint=None)

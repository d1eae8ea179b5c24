"""Every store keeps the protocol that the rest of the package relies on."""

from typing import TYPE_CHECKING

from diptych.storage.s3 import S3Config, S3Store

if TYPE_CHECKING:
    from diptych.storage.base import ObjectStore


def test_s3_is_an_object_store(s3_config: S3Config) -> None:
    store: ObjectStore = S3Store("weights", s3_config)
    assert store.location == "s3://weights"

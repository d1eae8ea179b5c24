"""The nano pair's own adapters, under their names in a store that does not have them yet."""

import logging

from diptych.adapters.bundle import from_bytes
from diptych.adapters.registry import Registry, utc_now
from diptych.adapters.summary import summarise
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, DiptychError
from diptych.nano.pair import ADAPTERS, adapter_path

__all__ = ["publish_demo_adapters"]

_log = logging.getLogger(__name__)


def publish_demo_adapters(registry: Registry) -> None:
    """Give every demo adapter its name in the default tenant, unless it means something already.

    A store that cannot be written does without them, which is logged.
    """
    for name in ADAPTERS:
        try:
            registry.resolve(name)
        except AdapterNotFound:
            _publish(registry, name)
        except DiptychError as error:
            _log.warning("the demo adapter %s is not offered: %s", name, error)


def _publish(registry: Registry, name: str) -> None:
    try:
        path = adapter_path(name)
        card = summarise(
            from_bytes(path, source=name),
            digest=Digest.of_file(path),
            size_bytes=path.stat().st_size,
            source="nano",
            created_at=utc_now(),
        )
        registry.publish(name, path, card, replace=True)
    except DiptychError as error:
        _log.warning("the demo adapter %s is not offered: %s", name, error)

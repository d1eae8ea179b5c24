"""The names that the service's parts share are those that the wire has."""

from diptych.embedding_cache import wire
from diptych.embedding_cache.ports import CacheMode, Stage


def test_every_mode_can_be_asked_for() -> None:
    assert set(wire.MODES.values()) == set(CacheMode)


def test_every_stage_can_be_asked_for() -> None:
    assert set(wire.STAGES.values()) == {None, *Stage}

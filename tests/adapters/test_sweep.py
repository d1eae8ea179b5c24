"""What nothing names goes after a grace, and nothing else ever does."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from diptych.adapters.registry import Registry
from diptych.adapters.stores import GRACE, Mark, Pointer
from diptych.adapters.sweep import PAUSE, Sweeper, Swept, sweep
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, SourceUnavailable
from support.shelves import NOON, in_memory, published

ONE = b"one"
D1 = Digest.of_bytes(ONE)
NOTHING = Swept(removed={}, waiting={})
LATER = NOON + GRACE


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a registry that has one adapter without a name."""
    made = in_memory(tmp_path / "tier")
    published(made, "huggy", ONE)
    made.remove("huggy")
    return made


def is_stored(registry: Registry) -> bool:
    return registry.stores.content("default").size_bytes(D1) is not None


def test_the_first_pass_only_marks(registry: Registry) -> None:
    assert sweep(registry, now=NOON) == Swept(removed={}, waiting={D1: 3})
    assert is_stored(registry)


def test_a_pass_after_the_grace_removes(registry: Registry) -> None:
    sweep(registry, now=NOON)
    assert sweep(registry, now=LATER) == Swept(removed={D1: 3}, waiting={})
    assert not is_stored(registry)
    assert registry.stores.refs.listing("", limit=9) == []


def test_a_pass_within_the_grace_does_not(registry: Registry) -> None:
    sweep(registry, now=NOON)
    assert sweep(registry, now=LATER - timedelta(seconds=1)).removed == {}
    assert is_stored(registry)


def test_a_dry_run_says_what_would_go_and_does_nothing(registry: Registry) -> None:
    assert sweep(registry, now=NOON, dry_run=True) == Swept(removed={}, waiting={D1: 3})
    assert sweep(registry, now=LATER, dry_run=True) == Swept(removed={}, waiting={D1: 3})
    sweep(registry, now=NOON)
    assert sweep(registry, now=LATER, dry_run=True) == Swept(removed={D1: 3}, waiting={})
    assert is_stored(registry)


def test_what_has_a_name_stays(registry: Registry) -> None:
    registry.move("kept", D1)
    sweep(registry, now=NOON)
    assert sweep(registry, now=LATER) == NOTHING
    assert is_stored(registry)


def test_what_is_in_use_stays(registry: Registry) -> None:
    sweep(registry, now=NOON)
    assert sweep(registry, now=LATER, keep=[D1]) == NOTHING


def test_what_was_marked_and_is_named_again_stays(registry: Registry) -> None:
    sweep(registry, now=NOON)
    registry.move("again", D1)
    registry.remove("again")
    assert sweep(registry, now=LATER) == Swept(removed={}, waiting={D1: 3})


def test_what_was_swept_can_be_published_again(registry: Registry) -> None:
    sweep(registry, now=NOON)
    sweep(registry, now=LATER)
    published(registry, "huggy", ONE)
    with registry.hold(registry.resolve("huggy")) as path:
        assert path.read_bytes() == ONE


def test_what_is_being_removed_cannot_be_named(registry: Registry) -> None:
    mark = Mark(since=NOON, is_going=True)
    key = registry.stores.mark_key("default", D1)
    registry.stores.refs.write(key, mark.to_bytes(), expected=None)
    with pytest.raises(SourceUnavailable, match="is being swept away"):
        published(registry, "huggy", ONE)
    with pytest.raises(AdapterNotFound):
        registry.resolve("huggy")


def test_a_sweep_that_was_killed_is_finished_by_another(registry: Registry) -> None:
    mark = Mark(since=NOON, is_going=True)
    key = registry.stores.mark_key("default", D1)
    registry.stores.refs.write(key, mark.to_bytes(), expected=None)
    assert sweep(registry, now=LATER).removed == {D1: 3}


def test_sweeps_one_tenant(registry: Registry) -> None:
    assert sweep(registry, now=NOON, tenant="other") == NOTHING


def test_a_change_of_names_sweeps_what_an_earlier_one_marked(registry: Registry) -> None:
    moments = iter([NOON, LATER])
    sweeper = Sweeper(registry, now=lambda: next(moments))
    sweeper.name_changed("default")
    assert is_stored(registry)
    sweeper.name_changed("default")
    assert not is_stored(registry)


def test_changes_in_a_row_are_swept_once(registry: Registry) -> None:
    moments = iter([NOON, NOON + PAUSE / 2, LATER])
    sweeper = Sweeper(registry, now=lambda: next(moments))
    for _ in range(2):
        sweeper.name_changed("default")
    assert is_stored(registry)


class NamesNeverDangle(RuleBasedStateMachine):
    """Publishers, movers, removers and sweepers in any order, with time going on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.registry = in_memory(self.folder, now=self.clock)

    folder: Path

    def clock(self) -> datetime:
        return self.now

    @rule(name=st.sampled_from("ab"), bundle=st.sampled_from([b"1", b"2"]))
    def publish(self, name: str, bundle: bytes) -> None:
        published(self.registry, name, bundle, replace=True)

    @rule(name=st.sampled_from("ab"), bundle=st.sampled_from([b"1", b"2"]))
    def move(self, name: str, bundle: bytes) -> None:
        digest = Digest.of_bytes(bundle)
        if self.registry.stores.content("default").size_bytes(digest) is not None:
            self.registry.move(name, digest, replace=True)

    @rule(name=st.sampled_from("ab"))
    def remove(self, name: str) -> None:
        if self.registry.stores.name_key("default", name, "latest") in self.pointers():
            self.registry.remove(name)

    @rule(minutes=st.sampled_from([1, 59, 61]))
    def sweep(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        sweep(self.registry, now=self.now)

    @invariant()
    def every_name_leads_to_bytes(self) -> None:
        content = self.registry.stores.content("default")
        assert all(content.size_bytes(p.digest) is not None for p in self.pointers().values())

    def pointers(self) -> dict[str, Pointer]:
        return self.registry.pointers("default")


def test_names_never_dangle(tmp_path: Path) -> None:
    NamesNeverDangle.folder = tmp_path
    limits = settings(max_examples=20, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(NamesNeverDangle, settings=limits)

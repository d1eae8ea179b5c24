"""What jobs hang on can be broken and is whole again."""

import contextlib
from pathlib import Path

import pytest

from diptych.bench.fault_places import open_places
from diptych.training.ledger.opening import open_ledger


@pytest.mark.parametrize(("is_on_postgres", "name"), [(True, "PostgreSQL"), (False, "SQLite")])
def test_ledger_and_owners_come_back(is_on_postgres: bool, name: str, tmp_path: Path) -> None:
    with open_places(tmp_path, is_real=False, is_on_postgres=is_on_postgres) as places:
        assert (places.ledger, set(places.breaks)) == (name, {"database", "owner"})
        with contextlib.closing(open_ledger(places.ledger_url)) as ledger:
            for one in places.breaks.values():
                one(0.0)
            assert ledger.list(tenant="nobody").jobs == ()

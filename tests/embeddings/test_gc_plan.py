"""What a collection decides: nothing needed goes, every needed entry stays exactly once."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.embeddings.gc_plan import GcPlan, GcPolicy, OldPack, make_plan
from diptych.embeddings.key_table import Keys, keys_of
from diptych.embeddings.pack import ROW, PackRef

POLICY = GcPolicy(older_than_s=100.0, small_bytes=0)


def key(number: int) -> bytes:
    return bytes.fromhex(f"{number:064x}")[::-1]


def keys(*numbers: int) -> Keys:
    return keys_of(b"".join(key(number) for number in numbers))


def pack(name: str, *numbers: int, age_s: float = 0.0, damaged: tuple[int, ...] = ()) -> OldPack:
    """Return a pack of entries of 10 bytes each."""
    rows = np.zeros(len(numbers), ROW)
    rows["key"], rows["size"] = keys(*numbers), 10
    ref = PackRef(name=name, size_bytes=1000, modified_s=0.0)
    return OldPack(
        ref=ref, age_s=age_s, rows=rows, damaged=np.array([n in damaged for n in numbers])
    )


def kept(packs: list[OldPack], plan: GcPlan) -> Counter[int]:
    """Return which entries there are afterwards, and how often."""
    touched = {one.ref.name for one in plan.removed} | {one.ref.name for one, _ in plan.rewritten}
    left = [one.rows for one in packs if one.ref.name not in touched]
    left += [one.rows[alive] for one, alive in plan.rewritten]
    return Counter(int(row["key"][0]) for rows in left for row in rows)


def test_what_no_root_needs_goes_when_it_is_old_enough() -> None:
    packs = [pack("a", 1, 2, age_s=200), pack("b", 3, age_s=50)]
    plan = make_plan(packs, keys(1), POLICY)
    assert kept(packs, plan) == Counter([1, 3])
    assert (plan.num_collected, plan.collected_bytes, plan.kept_bytes) == (1, 10, 20)


def test_a_pack_without_living_entries_is_removed_unread() -> None:
    plan = make_plan([pack("a", 1, 2, age_s=200)], keys(), POLICY)
    assert [one.ref.name for one in plan.removed] == ["a"]
    assert not plan.rewritten


def test_a_pack_that_is_all_alive_is_left_alone() -> None:
    plan = make_plan([pack("a", 1, 2, age_s=200)], keys(1, 2), POLICY)
    assert not plan.removed
    assert not plan.rewritten


def test_of_copies_the_one_in_the_pack_of_the_least_name_stays() -> None:
    packs = [pack("b", 1, age_s=9), pack("a", 1, 2), pack("c", 2, 3)]
    plan = make_plan(packs, keys(1, 2, 3), POLICY)
    assert [one.ref.name for one in plan.removed] == ["b"]
    assert [(one.ref.name, alive.tolist()) for one, alive in plan.rewritten] == [
        ("c", [False, True])
    ]
    assert plan.num_copies == 2


def test_a_damaged_entry_goes_and_its_whole_copy_stays() -> None:
    packs = [pack("a", 1, 2, damaged=(1,)), pack("b", 1)]
    plan = make_plan(packs, keys(1, 2), POLICY)
    assert kept(packs, plan) == Counter([1, 2])
    assert (plan.num_damaged, plan.num_copies) == (1, 0)


def test_over_the_budget_the_oldest_go_that_nothing_needs() -> None:
    packs = [pack("a", 1, age_s=90), pack("b", 2, age_s=80), pack("c", 3, age_s=70)]
    policy = GcPolicy(older_than_s=100.0, small_bytes=0, budget_bytes=45)
    plan = make_plan(packs, keys(1), policy, young_bytes=20)
    assert kept(packs, plan) == Counter([1, 3])
    assert plan.kept_bytes == 40


def test_what_is_needed_stays_whatever_the_budget() -> None:
    packs = [pack("a", 1, age_s=900)]
    plan = make_plan(packs, keys(1), GcPolicy(older_than_s=0.0, small_bytes=0, budget_bytes=0))
    assert kept(packs, plan) == Counter([1])


def test_small_packs_are_merged_but_not_one_alone() -> None:
    policy = GcPolicy(older_than_s=100.0, small_bytes=15)
    assert not make_plan([pack("a", 1), pack("b", 2, 3)], keys(), policy).rewritten
    plan = make_plan([pack("a", 1), pack("b", 2, 3), pack("c", 4)], keys(), policy)
    assert [one.ref.name for one, _ in plan.rewritten] == ["a", "c"]


def test_there_is_nothing_to_do_without_packs() -> None:
    assert make_plan([], keys(1), POLICY, young_bytes=7) == GcPlan(
        removed=(), rewritten=(), kept_bytes=7
    )


ENTRIES = st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True)


@given(
    contents=st.lists(st.tuples(ENTRIES, st.integers(0, 300)), min_size=1, max_size=6),
    needed=st.sets(st.integers(0, 12)),
    budget=st.none() | st.integers(0, 200),
    small_bytes=st.integers(0, 60),
)
def test_whatever_is_needed_stays_exactly_once(
    contents: list[tuple[list[int], int]], needed: set[int], budget: int | None, small_bytes: int
) -> None:
    packs = [pack(f"p{at}", *numbers, age_s=age_s) for at, (numbers, age_s) in enumerate(contents)]
    policy = GcPolicy(older_than_s=100.0, budget_bytes=budget, small_bytes=small_bytes)
    plan = make_plan(packs, keys(*needed), policy)
    found = kept(packs, plan)
    there = {number for numbers, _ in contents for number in numbers}
    assert all(found[number] == 1 for number in there & needed)
    assert all(count <= 1 for count in found.values())
    young = {number for numbers, age_s in contents if age_s <= 100 for number in numbers}
    assert budget is not None or all(found[number] >= 0 for number in young)
    assert plan.kept_bytes == 10 * found.total()
    assert budget is None or plan.kept_bytes <= max(budget, 10 * len(there & needed))

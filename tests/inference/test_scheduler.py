"""The scheduling policy: one expert and shape per tick, fair by cost, nobody starved."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from diptych.inference.scheduler import Group, Scheduler, Tick
from diptych.inference.trajectory import Expert

MAX_ROWS = 6


def group(expert: Expert = Expert.BASE, size: int = 64, text_length: int = 77) -> Group:
    return Group(expert=expert, width=size, height=size, text_length=text_length)


def cost(of: Group, num_rows: int) -> float:
    return num_rows * of.num_pixels / 4096


def scheduler() -> Scheduler:
    return Scheduler(max_rows=MAX_ROWS, cost=cost)


GROUPS = [group(), group(Expert.REFINER), group(size=128), group(text_length=154)]


class Policy(RuleBasedStateMachine):
    """Trajectories come, change group, finish and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = scheduler()
        self.known: dict[int, tuple[Group, int]] = {}
        self.passed_over: dict[int, int] = {}
        self.born = 0

    @rule(where=st.sampled_from(GROUPS), num_rows=st.sampled_from([1, 2]))
    def arrive(self, where: Group, num_rows: int) -> None:
        self.scheduler.put(self.born, where, num_rows)
        self.known[self.born] = (where, num_rows)
        self.passed_over[self.born] = 0
        self.born += 1

    @precondition(lambda self: self.known)
    @rule(data=st.data(), where=st.sampled_from(GROUPS), num_rows=st.sampled_from([1, 2]))
    def move(self, data: st.DataObject, where: Group, num_rows: int) -> None:
        member = data.draw(st.sampled_from(sorted(self.known)))
        self.scheduler.put(member, where, num_rows)
        self.known[member] = (where, num_rows)
        self.passed_over[member] = 0

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.known)))
        self.scheduler.discard(member)
        del self.known[member], self.passed_over[member]

    @precondition(lambda self: self.known)
    @rule()
    def tick(self) -> None:
        tick = self.scheduler.next_tick()
        assert tick is not None, "something can run"
        assert 1 <= tick.num_rows <= MAX_ROWS
        assert all(self.known[member][0] == tick.group for member in tick.members)
        assert tick.num_rows == sum(self.known[member][1] for member in tick.members)
        assert list(tick.members) == sorted(tick.members), "oldest first"
        self.note_turns(tick)

    def note_turns(self, tick: Tick) -> None:
        oldest = {
            where: min(member for member, (other, _) in self.known.items() if other == where)
            for where, _ in self.known.values()
        }
        for member in oldest.values():
            late = member not in tick.members
            self.passed_over[member] = self.passed_over[member] + 1 if late else 0

    @invariant()
    def holds_exactly_what_it_was_given(self) -> None:
        assert len(self.scheduler) == len(self.known)

    @invariant()
    def starves_nobody(self) -> None:
        # The dearest tick costs 4 x 6 rows and the cheapest 1, shared by at most all that exist.
        assert all(ticks <= 40 * max(1, self.born) for ticks in self.passed_over.values())


TestPolicy = Policy.TestCase
TestPolicy.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def run(policy: Scheduler, num_ticks: int) -> list[Tick]:
    ticks = [policy.next_tick() for _ in range(num_ticks)]
    return [tick for tick in ticks if tick is not None]


def test_nothing_to_run_is_no_tick() -> None:
    assert scheduler().next_tick() is None


def test_takes_the_oldest_that_fit_and_fills_what_is_left() -> None:
    policy = scheduler()
    for member, num_rows in enumerate([2, 2, 1, 2, 1]):
        policy.put(member, group(), num_rows)
    tick = policy.next_tick()
    assert tick is not None
    assert tick.members == (0, 1, 2, 4)


def test_groups_of_one_size_and_different_shapes_share_time_equally() -> None:
    policy = scheduler()
    small, large = group(size=64), group(size=128)
    policy.put(0, small, 2)
    policy.put(1, large, 2)
    ticks = run(policy, 500)
    spent = {
        where: sum(cost(tick.group, tick.num_rows) for tick in ticks if tick.group == where)
        for where in (small, large)
    }
    assert abs(spent[small] - spent[large]) <= cost(large, 2)


def test_a_lone_trajectory_gets_one_share_and_not_half_the_device() -> None:
    policy = scheduler()
    for member in range(3):
        policy.put(member, group(), 2)
    policy.put(3, group(Expert.REFINER), 2)
    ticks = run(policy, 400)
    lone = sum(tick.num_rows for tick in ticks if 3 in tick.members)
    crowd = sum(tick.num_rows for tick in ticks if 0 in tick.members)
    assert abs(crowd - 3 * lone) <= MAX_ROWS * 2


def test_a_group_that_was_idle_has_no_claim_on_the_past() -> None:
    policy = scheduler()
    policy.put(0, group(), 2)
    run(policy, 100)
    policy.put(1, group(Expert.REFINER), 2)
    turns = [tick.group.expert for tick in run(policy, 10)]
    assert turns.count(Expert.BASE) >= 4


def test_a_group_cannot_shed_its_debt_by_emptying() -> None:
    policy = scheduler()
    policy.put(0, group(), 1)
    dear = group(size=128)
    turns = []
    for member in range(1, 60):
        policy.put(member, dear, 2)
        turns += [tick.group for tick in run(policy, 1)]
        policy.discard(member)
    assert turns.count(dear) <= 12


def test_a_limit_holds_for_its_group_only() -> None:
    policy = scheduler()
    for member in range(6):
        policy.put(member, group() if member < 3 else group(Expert.REFINER), 2)
    policy.limit_rows(group(), 3)
    sizes = {tick.group.expert: tick.num_rows for tick in run(policy, 4)}
    assert sizes == {Expert.BASE: 2, Expert.REFINER: 6}

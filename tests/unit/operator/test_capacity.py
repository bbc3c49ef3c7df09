"""How many workers a pool is to have: from what gateways and workers say to what status says."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.capacity import QUIET_SECONDS, Capacities
from imagefleet_operator.plan import capacity as plan
from imagefleet_operator.plan.behavior import Behavior, Rules
from imagefleet_operator.plan.capacity import Capacity, Learned
from imagefleet_operator.plan.capacity_types import Load, ModelLoad, PoolScaling, WarmSpec
from imagefleet_operator.plan.cluster_types import DeploymentState, Role
from imagefleet_operator.plan.learned import WRITE_SECONDS
from imagefleet_operator.plan.scaling import CAUTION_FIRST, DECIDE_SECONDS, ScalingSpec
from imagefleet_operator.plan.types import Json, PoolObserved, Report, Worker

from tests.unit.operator.make import NOW, observed, pod, pool

SHOWN = '{"shapes-1":{"pinned":true}}'
SOON = Behavior(Rules(), Rules(10.0))
LEARNED = Learned(10.0, 2.0)


def worker(name: str, work: float = 0.0, **fields: Any) -> Worker:
    """A ready worker that takes requests; ``fields`` are its pod's."""
    made = pod(name, **{"placement": SHOWN, "created": NOW - 100, "ready_since": NOW - 90, **fields})
    return Worker(made, Report(1, False, (), work_seconds=work, requests=int(work > 0)), heard_at=NOW)


def scaling(low: int = 1, high: int = 5, *, external: bool = False, **fields: Any) -> PoolScaling:
    spec = ScalingSpec(min_replicas=low, max_replicas=high, behavior=SOON)
    return PoolScaling(replace(spec, **fields), external)


@pytest.mark.parametrize(
    ("case", "workers", "load", "desired", "want"),
    [
        ("nothing is known", (), Load(), 0, (0.0, 0, (), None)),
        ("a worker draws", (worker("a", 3.0),), Load(age=1.0), 1, (3.0, 1, (), 1.0)),
        (
            "what waits at gateways counts, and a worker that nobody has made yet",
            (worker("a", 3.0),),
            Load({"m": ModelLoad(held=1, held_seconds=4.0)}, age=1.0),
            2,
            (7.0, 1, (12.0,), 1.0),
        ),
        (
            "one that starts draws a lead after its creation",
            (worker("a", ready=False, created=NOW - 5),),
            Load(age=1.0),
            1,
            (0.0, 0, (7.0,), 1.0),
        ),
        (
            "one that is late, after twice the lead",
            (worker("a", ready=False, created=NOW - 13),),
            Load(age=1.0),
            1,
            (0.0, 0, (11.0,), 1.0),
        ),
        ("surplus workers do not count", (worker("a"), worker("b")), Load(age=1.0), 1, (0.0, 1, (), 1.0)),
        (
            "silent workers make the news old",
            (replace(worker("a"), heard_at=NOW - 70),),
            Load(age=1.0),
            1,
            (0.0, 1, (), 70.0),
        ),
    ],
)
def test_inputs(
    case: str, workers: tuple[Worker, ...], load: Load, desired: int, want: tuple[Any, ...]
) -> None:
    roles = {w.pod.name: Role.ACTIVE for w in workers}
    seen = observed(*workers, load=load)
    found = plan.inputs(seen, roles, desired, ModelLoad(), LEARNED, {}, NOW)
    assert (found.work_left, found.ready, found.starting, found.age) == want, case


def test_inputs_count_what_began_since_the_last_decision_and_who_is_idle() -> None:
    load = Load({"m": ModelLoad(started=9, late=3, running=1)}, quiet_seconds=40.0, age=0.0)
    before = ModelLoad(started=4, late=1)
    seen = observed(worker("a"), worker("b", 2.0), load=load)
    roles = {"a": Role.ACTIVE, "b": Role.ACTIVE}
    found = plan.inputs(seen, roles, 2, before, LEARNED, {"a-uid": NOW - 7}, NOW)
    assert (found.started, found.late, found.idle, found.quiet) == (5, 2, (7.0,), 0.0)


@dataclass
class World:
    """A pool, its Deployment that does at once what it is told, and an operator that looks every two seconds."""

    spec: Json
    now: float = NOW
    load: Load = field(default_factory=lambda: Load(age=0.0, quiet_seconds=1e6))
    workers: dict[str, Worker] = field(default_factory=dict)
    wanted: int = 0
    status: Json = field(default_factory=dict)
    capacities: Capacities = field(default_factory=Capacities)
    made: int = 0

    def seen(self) -> PoolObserved:
        there = len(self.workers)
        state = DeploymentState(True, there, there, there, desired=self.wanted)
        heard = (replace(w, heard_at=self.now) for w in self.workers.values())
        parent = pool(**self.spec, status=self.status)
        return observed(*heard, pool=parent, deployment=state, load=self.load)

    def look(self, seconds: float = DECIDE_SECONDS) -> Capacity:
        """One pass, after so many seconds; what follows from it is done."""
        self.now += seconds
        seen = self.seen()
        found = self.capacities.of(seen, self.now)
        assert found is not None
        after = plan.applied(seen, found)
        assert seen.pool.spec is not None
        self.status = plan.scaling_status(seen.pool.spec, after, found, self.now)
        self._act(found)
        return found

    def _act(self, found: Capacity) -> None:
        self.wanted = found.roles.replicas
        for name, role in found.roles.of.items():
            one = self.workers[name].pod
            marked = replace(
                one,
                placement=SHOWN if role is Role.ACTIVE else "",
                deletion_cost=-100 if role is Role.DONE else 0,
            )
            self.workers[name] = replace(self.workers[name], pod=marked)
        while len(self.workers) < self.wanted:
            self.made += 1
            self.workers[f"p{self.made}"] = worker(
                f"p{self.made}", created=self.now, ready_since=self.now + 10
            )
        for name in sorted(self.workers, key=lambda n: self.workers[n].pod.deletion_cost)[
            : len(self.workers) - self.wanted
        ]:
            del self.workers[name]

    def asks(self, held_seconds: float, quiet: float = 0.0) -> None:
        held = int(held_seconds > 0)
        self.load = Load({"m": ModelLoad(held=held, held_seconds=held_seconds)}, quiet_seconds=quiet, age=0.0)


def test_a_pool_at_zero_gets_workers_at_the_pass_that_sees_a_request() -> None:
    world = World({"scaling": scaling(0, 2, zero_seconds=5.0)})
    assert world.look().desired == 0
    world.asks(1.0)
    assert world.look(0.1).desired >= 1, "long before the next decision is due"
    assert world.wanted >= 1
    assert world.status["scaling"]["decisions"][-1]["from"] == 0
    world.asks(0.0, quiet=100.0)
    for _ in range(30):
        found = world.look()
    assert (found.desired, world.wanted, world.workers) == (0, 0, {})
    assert world.status["scaling"]["decisions"][-1]["reason"] == "Unused"


def test_a_new_operator_goes_on_from_the_status_and_takes_nobody_away_for_a_window() -> None:
    world = World({"scaling": scaling(1, 5)})
    world.asks(500.0)
    for _ in range(3):
        world.look()
    assert world.wanted == 5
    world.asks(0.0, quiet=1000.0)
    world.capacities = Capacities()
    assert [world.look().desired for _ in range(4)] == [5, 5, 5, 5]
    assert [d["to"] for d in world.status["scaling"]["decisions"]][-1] == 5, "the past is told on"
    assert {world.look().desired for _ in range(24)} == {5}, "a minute of arrivals is needed for a rate"
    for _ in range(10):
        world.look()
    assert world.wanted < 5


@pytest.mark.parametrize(
    ("age", "reason"), [(None, "MetricsAbsent"), (61.0, "MetricsStale")], ids=["absent", "stale"]
)
def test_without_news_nothing_changes_and_the_condition_says_so(age: float | None, reason: str) -> None:
    world = World({"scaling": scaling(1, 5)})
    world.asks(500.0)
    world.look()
    world.load = Load(age=age)
    for _ in range(20):
        found = world.look()
    assert (found.desired, found.verdict and (found.verdict.ok, found.verdict.reason)) == (5, (False, reason))
    world.asks(0.0, quiet=1000.0)
    assert world.look().desired == 5, "what was wanted while nothing was known says nothing"


def test_while_a_gateway_is_silent_nobody_goes() -> None:
    world = World({"scaling": scaling(1, 5)})
    world.asks(500.0)
    world.look()
    world.load = Load(age=0.0, quiet_seconds=1000.0, partial=True)
    for _ in range(20):
        assert world.look().desired == 5


@pytest.mark.parametrize(
    ("asked", "desired", "ok", "reason"),
    [(3, 3, True, "External"), (9, 5, False, "ReplicasOutOfBounds"), (0, 1, False, "ReplicasOutOfBounds")],
)
def test_somebody_elses_number_is_followed_within_the_bounds(
    asked: int, desired: int, ok: bool, reason: str
) -> None:
    found = World({"scaling": scaling(1, 5, external=True), "replicas": asked}).look()
    assert found.verdict is not None
    assert (found.desired, found.verdict.ok, found.verdict.reason) == (desired, ok, reason)
    assert str(asked) in found.verdict.message or ok


def test_warm_workers_get_what_the_bound_leaves_and_are_taken_first() -> None:
    world = World({"scaling": scaling(2, 4), "warm": WarmSpec(2)})
    for _ in range(3):
        found = world.look()
    assert (found.desired, found.warm, world.wanted) == (2, 2, 4)
    waiting = {name for name, role in found.roles.of.items() if role is Role.WARM}
    world.asks(500.0)
    found = world.look()
    assert (found.desired, found.warm, world.wanted) == (4, 0, 4)
    assert {found.roles.of[name] for name in waiting} == {Role.ACTIVE}


def test_a_pool_of_a_fixed_number_drains_before_it_shrinks() -> None:
    world = World({"replicas": 2})
    world.look()
    busy = {name: replace(w, report=worker(name, 5.0).report) for name, w in world.workers.items()}
    world.workers = busy
    world.spec = {"replicas": 1}
    world.look()
    assert world.wanted == 2, "it is hidden first"
    for _ in range(4):
        world.look()
    assert world.wanted == 1, "and goes with what it has, as a person said so"


def test_how_long_workers_take_is_learned_from_those_that_start() -> None:
    world = World({"scaling": scaling(1, 5)})
    for _ in range(2):
        world.look()
    assert world.status["scaling"]["startSeconds"] == 10.0
    assert "expectedAt" not in world.status["scaling"]
    slow = worker("slow", ready=False, created=world.now)
    world.workers["slow"], world.wanted = slow, 2
    world.asks(500.0)
    world.look()
    assert world.status["scaling"]["expectedAt"]


def test_what_was_learned_is_written_every_half_hour_and_read_by_the_next_operator() -> None:
    world = World({"scaling": scaling(1, 5)})
    written = []
    for n in range(3 * int(WRITE_SECONDS / 60)):
        came = ModelLoad(arrived_seconds=30.0 * n, arrived=n, started=n, late=n % 9 == 0)
        world.load = Load({"m": came}, age=0.0)
        kept = world.look(60.0).kept
        if kept is not None and kept not in written:
            written.append(kept)
    assert len(written) == 2, "not at once, and not at each decision"
    old = world.capacities._pools["ns", "thumbs"].scaler
    assert old is not None
    world.capacities = Capacities()
    world.look()
    new = world.capacities._pools["ns", "thumbs"].scaler
    assert new is not None
    assert new.memory.caution == pytest.approx(old.memory.caution, rel=0.2)
    assert new.memory.caution != CAUTION_FIRST
    assert new.forecaster.expected(world.now - 3600, world.now) > 0


def test_at_rest_the_status_does_not_change() -> None:
    world = World({"scaling": scaling(1, 5)})
    for _ in range(20):
        world.look()
    before = world.status
    for _ in range(300):
        world.look()
    assert world.status == before


def test_equal_bounds_leave_nothing_to_decide() -> None:
    verdict = World({"scaling": scaling(2, 2)}).look().verdict
    assert verdict is not None
    assert (verdict.ok, verdict.reason) == (False, "Bounded")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0.2, 3.0), seconds=st.sampled_from([0.5, 4.0, 20.0]))
def test_on_a_steady_random_load_the_number_does_not_swing(seed: int, rate: float, seconds: float) -> None:
    """Requests of so many seconds at random, which keep ``rate`` workers busy: nobody goes within a window of
    somebody's coming, and the bound holds."""
    chance, window = Random(seed), 60.0
    world = World({"scaling": scaling(1, 8, behavior=Behavior(Rules(), Rules(window)))})
    backlog, came, number, changes = 0.0, 0.0, 0, [(0.0, 0)]
    for _ in range(600):
        arrived = sum(chance.random() < rate * DECIDE_SECONDS / seconds / 20 for _ in range(20))
        came, number = came + arrived * seconds, number + arrived
        backlog = max(0.0, backlog + arrived * seconds - DECIDE_SECONDS * len(world.workers))
        counted = ModelLoad(came, number, number, held=int(backlog > 0), held_seconds=backlog)
        world.load = Load({"m": counted}, age=0.0)
        before = world.wanted
        world.look()
        assert world.wanted <= 8
        if world.wanted != before:
            changes.append((world.now, world.wanted - before))
    ups = [at for at, change in changes if change > 0]
    downs = [at for at, change in changes if change < 0]
    assert all(down - up >= window or down < up for up in ups for down in downs)


def test_a_pool_that_nobody_asks_is_looked_at_less_often() -> None:
    world = World({"scaling": scaling(1, 5)})
    for _ in range(20):
        found = world.look()
    assert found.again == QUIET_SECONDS
    world.asks(0.5)
    assert world.look().again == DECIDE_SECONDS


def test_bounds_that_move_the_number_and_numbers_of_others_are_told_too() -> None:
    world = World({"scaling": scaling(1, 5)})
    world.look()
    world.spec = {"scaling": scaling(4, 5)}
    world.look()
    world.spec = {"scaling": scaling(1, 5, external=True), "replicas": 5}
    world.look()
    told = [(d["to"], d["reason"]) for d in world.status["scaling"]["decisions"]]
    assert told[-2:] == [(4, "Bounded"), (5, "External")]


def test_a_new_operator_says_nothing_else_before_gateways_had_time_to_answer() -> None:
    world = World({"scaling": scaling(1, 5)})
    found = world.look()
    assert found.verdict is not None
    told = {"type": "ScalingActive", "status": "True", "reason": "Deciding", "message": "x"}
    world.status = {**world.status, "conditions": [told]}
    world.capacities, world.load = Capacities(), Load()
    conditions = []
    for _ in range(10):
        before = world.status
        found = world.look()
        world.status = {**world.status, "conditions": before.get("conditions", [told])}
        assert found.verdict is not None
        conditions.append(found.verdict.reason)
    assert conditions[0] == "Deciding"
    assert conditions[-1] == "MetricsAbsent"

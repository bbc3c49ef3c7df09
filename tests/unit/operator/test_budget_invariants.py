"""A limit is never exceeded, whatever callers want, pods do and the operator misses."""

from dataclasses import dataclass, field, replace
from math import floor

from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan.budget import plan_budget, unrecorded
from imagefleet_operator.plan.ceiling import PAUSE_SECONDS, REACT_SECONDS
from imagefleet_operator.plan.cluster_types import DeploymentState
from imagefleet_operator.plan.spend import DAY, read_spend
from imagefleet_operator.plan.spend_types import BudgetSpec
from imagefleet_operator.plan.status import write_delay
from imagefleet_operator.plan.types import Json, PoolObserved, grace_seconds

from tests.unit.operator import make

DAY_BEGAN = floor(make.NOW / DAY) * DAY


@dataclass(slots=True)
class TruePod:
    """What really happens to a pod, which the operator sees in parts."""

    name: str
    scheduled_at: float
    told_at: float | None = None
    ends_at: float = float("inf")

    def seconds(self, begin: float, end: float) -> float:
        """How long it held its accelerators between two times."""
        return max(0.0, min(end, self.ends_at) - max(begin, self.scheduled_at))


@dataclass(frozen=True, slots=True)
class Step:
    """What happens until the next pass, and what that one finds wanted."""

    seconds: float
    wanted: int
    start: float
    """From a pod's creation to its scheduling."""
    reaction: float
    """From a change of the replicas to what follows of it."""
    grace: float
    """Of its grace period the part that a worker takes to end."""
    lost: bool
    """The operator ends after the children were written, and before the status is."""
    evicted: bool
    """Somebody deletes a worker."""


@dataclass(slots=True)
class World:
    """A pool, its Deployment, and an operator that knows nothing but what the API server has."""

    budget: BudgetSpec
    now: float
    units: int
    max_request_seconds: int
    status: Json = field(default_factory=dict)
    pods: list[TruePod] = field(default_factory=list)
    asked: int = 0
    written_at: float | None = None
    made: int = 0
    wanted: int = 0

    @property
    def grace(self) -> float:
        return grace_seconds(self.max_request_seconds)

    def spent(self, day: float) -> float:
        """GPU-seconds that were really held in a day, up to now."""
        end = min(self.now, day + DAY)
        return self.units * sum(pod.seconds(day, end) for pod in self.pods)

    def observe(self) -> PoolObserved:
        """What the API server tells, in whole seconds."""
        parent = make.pool(
            replicas=self.wanted,
            status=self.status,
            budget=self.budget,
            accelerator_count=self.units,
            max_request_seconds=self.max_request_seconds,
        )
        workers = []
        for pod in self.pods:
            if pod.ends_at <= self.now or (pod.told_at is not None and pod.told_at <= pod.scheduled_at):
                continue
            seen = make.pod(
                pod.name, scheduled_at=floor(pod.scheduled_at) if pod.scheduled_at <= self.now else 0
            )
            if pod.told_at is not None and pod.told_at <= self.now:
                seen = replace(seen, deleting=True, deletion_at=pod.told_at + self.grace)
            workers.append(replace(make.worker(pod.name), pod=seen))
        there = len(workers)
        state = DeploymentState(True, there, there, there, desired=self.asked)
        return make.observed(*workers, pool=parent, deployment=state)

    def pass_(self, step: Step) -> None:
        """One pass of an operator that may just have started."""
        self.wanted = step.wanted
        observed = self.observe()
        if unrecorded(observed):
            self.write(observed)
            observed = self.observe()
        plan = plan_budget(observed, self.now)
        assert plan is not None
        changed, self.asked = plan.replicas != self.asked, plan.replicas
        self.settle(step)
        if not (changed or step.lost):
            self.write(observed)

    def write(self, observed: PoolObserved) -> None:
        """Write the status, if it is worth it."""
        plan = plan_budget(observed, self.now)
        assert plan is not None
        assert plan.spend.seconds >= self.spent(plan.spend.start) - 1e-3, "never less than the truth"
        since = None if self.written_at is None else self.now - self.written_at
        if write_delay(self.status, plan.status, since) == 0:
            self.status, self.written_at = plan.status, self.now

    def settle(self, step: Step) -> None:
        """The Deployment's controller brings its pods to what was asked."""
        at = self.now + step.reaction
        staying = [pod for pod in self.pods if pod.told_at is None]
        if step.evicted and staying:
            self.end(staying.pop(0), at, step)
        for pod in staying[self.asked :]:
            self.end(pod, at, step)
        for _ in range(self.asked - len(staying)):
            self.made += 1
            self.pods.append(TruePod(f"w{self.made}", at + step.start))

    def end(self, pod: TruePod, at: float, step: Step) -> None:
        pod.told_at = at
        pod.ends_at = at if pod.scheduled_at >= at else at + step.grace * self.grace


STEPS = st.builds(
    Step,
    seconds=st.one_of(st.floats(0.2, 5.0), st.floats(0.2, PAUSE_SECONDS)),
    wanted=st.integers(0, 12),
    start=st.floats(0.0, 30.0),
    reaction=st.floats(0.0, REACT_SECONDS / 2),
    grace=st.one_of(st.just(1.0), st.floats(0.0, 1.0)),
    lost=st.booleans(),
    evicted=st.just(False),
)
BUDGETS = st.builds(
    BudgetSpec,
    limit=st.floats(50.0, 20_000.0),
    on_exhausted=st.sampled_from(["stop", "throttle", "degrade"]),
    reduce_at=st.floats(0.1, 1.0),
)


@settings(max_examples=60, deadline=None)
@given(
    budget=BUDGETS,
    into_the_day=st.one_of(st.floats(0.0, DAY - 1), st.floats(DAY - 900, DAY - 1)),
    units=st.integers(1, 8),
    max_request_seconds=st.integers(1, 600),
    steps=st.lists(STEPS, min_size=5, max_size=80),
)
def test_neither_day_costs_more_than_its_limit(
    budget: BudgetSpec, into_the_day: float, units: int, max_request_seconds: int, steps: list[Step]
) -> None:
    world = World(budget, DAY_BEGAN + into_the_day, units, max_request_seconds)
    for step in steps:
        world.pass_(step)
        world.now += step.seconds
    assert budget.limit is not None
    for _ in range(3):  # the operator ends all there is, at the latest in its second pass
        world.pass_(replace(steps[-1], wanted=0, lost=False))
        world.now += 1.0
    world.now += 2 * world.grace + DAY / 24
    for day in (DAY_BEGAN, DAY_BEGAN + DAY):
        assert world.spent(day) <= budget.limit + 1e-3
    found = read_spend(world.status)
    assert found is None or found.seconds <= 1e9


def test_a_pool_in_full_demand_uses_most_of_its_budget() -> None:
    """The reserve is what a worker costs while it ends and while the operator is away, not more."""
    budget = BudgetSpec(limit=7_200.0)
    world = World(budget, DAY_BEGAN, 1, 30)
    step = Step(5.0, 5, 2.0, 0.5, 0.1, lost=False, evicted=False)
    for _ in range(1_200):
        world.pass_(step)
        world.now += step.seconds
    assert world.asked == 0
    assert 0.9 * 7_200 <= world.spent(DAY_BEGAN) <= 7_200

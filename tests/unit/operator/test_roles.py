"""Which workers take requests, wait warm, leave; and when the number of replicas may fall."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan.cluster_types import DeploymentState, Role
from imagefleet_operator.plan.roles import SILENT_SECONDS, UNSEEN_SECONDS, Standing, Wanted, assign
from imagefleet_operator.plan.types import Report, Worker

from tests.unit.operator.make import NOW, pod

SHOWN = '{"shapes-1":{"pinned":true}}'
ACTIVE, WARM, LEAVING, DONE = Role.ACTIVE, Role.WARM, Role.LEAVING, Role.DONE
LONG_AGO = NOW - 60


def worker(
    name: str, *, shown: bool = True, work: float = 0.0, ready: bool = True, cost: int = 0, heard: float = NOW
) -> Worker:
    made = pod(name, placement=SHOWN if shown else "", ready=ready, deletion_cost=cost, created=LONG_AGO)
    report = Report(1, False, (), work_seconds=work, requests=int(work > 0)) if ready else None
    return Worker(made, report, heard_at=heard)


def settled(wanted: int, pods: int | None = None) -> DeploymentState:
    pods = wanted if pods is None else pods
    return DeploymentState(True, pods, pods, pods, desired=wanted)


def known(**roles: Role) -> dict[str, Standing]:
    return {f"{name}-uid": Standing(role, LONG_AGO) for name, role in roles.items()}


BUSY, IDLE, HIDDEN = worker("a", work=9.0), worker("b"), worker("c", shown=False)


@pytest.mark.parametrize(
    ("case", "wanted", "deployment", "workers", "before", "roles", "replicas"),
    [
        ("a new pool", Wanted(2), None, (), {}, {}, 2),
        ("more are wanted", Wanted(3), settled(1), (BUSY,), {}, {"a": ACTIVE}, 3),
        ("as wanted", Wanted(2), settled(2), (BUSY, IDLE), {}, {"a": ACTIVE, "b": ACTIVE}, 2),
        (
            "the one without work leaves, and stays until gateways have seen that",
            Wanted(1),
            settled(2),
            (BUSY, IDLE),
            {},
            {"a": ACTIVE, "b": LEAVING},
            2,
        ),
        (
            "one that leaves and has work stays",
            Wanted(1),
            settled(2),
            (BUSY, worker("c", shown=False, work=1.0)),
            known(c=LEAVING),
            {"a": ACTIVE, "c": LEAVING},
            2,
        ),
        (
            "one that has none is done, and is marked before it goes",
            Wanted(1),
            settled(2),
            (BUSY, HIDDEN),
            known(c=LEAVING),
            {"a": ACTIVE, "c": DONE},
            2,
        ),
        (
            "one that is marked goes",
            Wanted(1),
            settled(2),
            (BUSY, worker("c", shown=False, cost=-100)),
            known(c=DONE),
            {"a": ACTIVE, "c": DONE},
            1,
        ),
        (
            "one that has said nothing since it got its last request stays",
            Wanted(1),
            settled(2),
            (BUSY, worker("c", shown=False, heard=LONG_AGO)),
            known(c=LEAVING),
            {"a": ACTIVE, "c": LEAVING},
            2,
        ),
        (
            "one that is not ready goes before one that is, as it has nothing",
            Wanted(1),
            settled(2),
            (BUSY, worker("d", shown=False, ready=False)),
            {},
            {"a": ACTIVE, "d": LEAVING},
            1,
        ),
        (
            "while one that has served is not ready, none goes",
            Wanted(1),
            settled(2),
            (worker("a", ready=False), worker("c", shown=False, cost=-100)),
            known(c=DONE),
            {"c": ACTIVE, "a": LEAVING},
            2,
        ),
        ("pods that are not made yet go first", Wanted(1), settled(3, pods=1), (BUSY,), {}, {"a": ACTIVE}, 1),
        (
            "what leaves is taken back before what is warm",
            Wanted(2, warm=1),
            settled(3),
            (BUSY, HIDDEN, worker("d", shown=False)),
            known(c=LEAVING, d=WARM),
            {"a": ACTIVE, "c": ACTIVE, "d": WARM},
            3,
        ),
        (
            "what is warm is taken before what starts",
            Wanted(2, warm=1),
            settled(3),
            (BUSY, worker("d", shown=False), worker("e", shown=False, ready=False)),
            known(d=WARM),
            {"a": ACTIVE, "d": ACTIVE, "e": WARM},
            3,
        ),
        (
            "while workers are replaced the extra one is active and none leaves",
            Wanted(2),
            DeploymentState(True, 3, 1, 2, desired=2),
            (BUSY, IDLE, worker("d", shown=False, ready=False)),
            {},
            {"a": ACTIVE, "b": ACTIVE, "d": ACTIVE},
            2,
        ),
        (
            "while workers are replaced fewer wait for that",
            Wanted(1),
            DeploymentState(True, 3, 1, 2, desired=2),
            (BUSY, IDLE),
            {},
            {"a": ACTIVE, "b": ACTIVE},
            2,
        ),
        (
            "a person who wants fewer is not kept waiting by work",
            Wanted(0, forced=True),
            settled(1),
            (worker("c", shown=False, work=9.0),),
            known(c=LEAVING),
            {"c": DONE},
            1,
        ),
    ],
)
def test_roles(
    case: str,
    wanted: Wanted,
    deployment: DeploymentState | None,
    workers: tuple[Worker, ...],
    before: dict[str, Standing],
    roles: dict[str, Role],
    replicas: int,
) -> None:
    found = assign(wanted, deployment, workers, before, NOW)
    assert (found.of, found.replicas) == (roles, replicas), case


def test_what_may_have_work_is_kept_whatever_it_costs() -> None:
    spot = replace(BUSY, pod=replace(BUSY.pod, capacity="spot"))
    done = worker("c", shown=False, cost=-100)
    there = (spot, replace(done, pod=replace(done.pod, capacity="on-demand")))
    found = assign(Wanted(1), settled(2), there, known(c=DONE), NOW)
    assert (found.replicas, found.kept) == (1, {"spot": 1})


def test_those_beyond_their_share_go_first() -> None:
    found = assign(Wanted(1), settled(2), (BUSY, IDLE), {}, NOW, beyond={"a"})
    assert found.of == {"a": LEAVING, "b": ACTIVE}


def test_a_worker_that_was_hidden_a_moment_ago_may_still_get_a_request() -> None:
    before = {"c-uid": Standing(LEAVING, NOW - UNSEEN_SECONDS + 0.1)}
    assert assign(Wanted(1), settled(2), (BUSY, HIDDEN), before, NOW).of["c"] is LEAVING


@pytest.mark.parametrize(
    ("leaves_for", "silent_for", "role"),
    [
        (SILENT_SECONDS, SILENT_SECONDS, DONE),
        (SILENT_SECONDS, SILENT_SECONDS - 1, LEAVING),
        (SILENT_SECONDS - 1, SILENT_SECONDS, LEAVING),
    ],
)
def test_a_worker_that_never_answers_leaves_in_the_end(
    leaves_for: float, silent_for: float, role: Role
) -> None:
    silent = replace(HIDDEN, report=None, silent_since=NOW - silent_for)
    before = {"c-uid": Standing(LEAVING, NOW - leaves_for)}
    assert assign(Wanted(1), settled(2), (BUSY, silent), before, NOW).of["c"] is role


@dataclass
class Pod:
    work: int = 0
    shown: bool = False
    ready: bool = False
    cost: int = 0


@dataclass
class Fleet:
    """A Deployment, its controller, gateways and workers: what the operator decides happens, in its order."""

    most: int
    now: float = NOW
    wanted: int = 1
    replicas: int = 0
    made: int = 0
    pods: dict[str, Pod] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def operate(self, warm: int) -> None:
        """One pass."""
        workers = [
            worker(n, shown=p.shown, work=float(p.work), ready=p.ready, cost=p.cost, heard=self.now)
            for n, p in self.pods.items()
        ]
        state = settled(self.replicas, len(self.pods))
        found = assign(
            Wanted(self.wanted, min(warm, self.most - self.wanted)), state, workers, self.standings, self.now
        )
        before, self.standings = self.standings, {}
        for name, role in found.of.items():
            uid = f"{name}-uid"
            seen = role is not LEAVING or not self.pods[name].shown
            same = uid in before and before[uid].role is role and seen
            self.standings[uid] = before[uid] if same else Standing(role, self.now)
            self.pods[name].shown = role is ACTIVE and self.pods[name].ready
            self.pods[name].cost = -100 if role is DONE else 0
        self.replicas = found.replicas
        assert self.replicas <= self.most

    def control(self) -> None:
        """The controller makes pods, or ends those that are not ready, then those of the lowest cost."""
        while len(self.pods) < self.replicas:
            self.made += 1
            self.pods[f"p{self.made}"] = Pod()
        order = sorted(self.pods, key=lambda n: (self.pods[n].ready, self.pods[n].cost, n))
        for name in order[: max(0, len(self.pods) - self.replicas)]:
            if self.pods.pop(name).work:
                self.lost.append(name)

    def serve(self, requests: int) -> None:
        """Each worker draws some; requests go to whom gateways see."""
        for found in self.pods.values():
            found.work = max(0, found.work - 1)
            found.ready = True
        seen = [p for p in self.pods.values() if p.shown]
        for n in range(requests if seen else 0):
            seen[n % len(seen)].work += 2


@settings(max_examples=150, deadline=None)
@given(
    most=st.integers(1, 6),
    warm=st.integers(0, 2),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.booleans()), max_size=40),
)
def test_no_worker_with_work_goes_and_the_bound_holds(
    most: int, warm: int, steps: list[tuple[int, int, bool]]
) -> None:
    fleet = Fleet(most)
    for wanted, requests, controlled in steps:
        fleet.wanted = min(wanted, most)
        fleet.operate(warm)
        if controlled:
            fleet.control()
        fleet.serve(requests)
        fleet.now += 1
    assert fleet.lost == []


@settings(max_examples=50, deadline=None)
@given(most=st.integers(1, 6), warm=st.integers(0, 2), first=st.integers(0, 6), last=st.integers(0, 6))
def test_without_requests_the_number_that_is_wanted_is_reached_and_stays(
    most: int, warm: int, first: int, last: int
) -> None:
    fleet = Fleet(most)
    for wanted in (first, last):
        fleet.wanted = min(wanted, most)
        for _ in range(20):
            fleet.operate(warm)
            fleet.control()
            fleet.serve(0)
            fleet.now += 1
    want = fleet.wanted + min(warm, most - fleet.wanted)
    assert len(fleet.pods) == want
    assert sum(p.shown for p in fleet.pods.values()) == fleet.wanted
    assert not any(p.cost for p in fleet.pods.values())

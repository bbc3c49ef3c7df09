"""A pool with workers and gateways that do as they are told, to see a rollout through: passes of the plan over the
status that the pass before it wrote, which is all that is remembered."""

from dataclasses import astuple, dataclass, field, replace
from math import log
from typing import Any

from imagefleet_operator.plan.policy import placement_text, policy_hash
from imagefleet_operator.plan.pool import PoolPlan, plan_pool
from imagefleet_operator.plan.rollout_types import (
    AnalysisSpec,
    Arm,
    Budget,
    Moments,
    NameFigures,
    RolloutSpec,
    RolloutStep,
    Served,
)
from imagefleet_operator.plan.types import (
    Json,
    ModelReport,
    ModelSpec,
    Parent,
    PoolModel,
    PoolObserved,
    PoolSpec,
    Report,
    Worker,
)

from tests.unit.operator.make import DIGEST, GIB, NOW, deployment, model, pod

BYTES = 10 * GIB
"""What each model takes."""


@dataclass
class Behaviour:
    """What a model is like."""

    errors: float = 0.0
    seconds: float = 0.01
    quality: float | None = 0.9
    unsafe: float | None = None
    loads: bool = True
    exists: bool = True


@dataclass
class SimWorker:
    """A worker that obeys its policy, one load at a time unit."""

    name: str
    memory: int
    policy: tuple[Json, ...] = ()
    states: dict[str, str] = field(default_factory=dict)
    leaving: dict[str, str] = field(default_factory=dict)
    """What it was just told to drop, and reports once more."""

    def obey(self, policy: tuple[Json, ...]) -> None:
        self.policy = policy
        named = {entry["model"]: entry for entry in policy}
        self.leaving = {m: s for m, s in self.states.items() if m not in named}
        self.states = {m: s for m, s in self.states.items() if m in named and not named[m].get("suspended")}

    def tick(self, kinds: dict[str, Behaviour]) -> None:
        """What was loading is there; what is pinned begins to load, in the place of what is not where it must."""
        for name, state in self.states.items():
            if state == "Loading":
                self.states[name] = "Resident" if kinds[name].loads else "Failed"
        for entry in self.policy:
            name = entry["model"]
            if not entry["pinned"] or entry.get("suspended") or name in self.states:
                continue
            for spare in [e["model"] for e in self.policy if not e["pinned"]]:
                if len(self.states) * BYTES + BYTES > self.memory:
                    self.states.pop(spare, None)
            if len(self.states) * BYTES + BYTES <= self.memory:
                self.states[name] = "Loading"

    def seen(self) -> Worker:
        reports = tuple(
            ModelReport(e["model"], self.states.get(e["model"], "Absent"), e["pinned"], DIGEST)
            for e in self.policy
        )
        reports += tuple(ModelReport(m, state, True, DIGEST) for m, state in self.leaving.items())
        placement = placement_text({e["model"]: e["pinned"] for e in self.policy})
        report = Report(self.memory, False, reports)
        return Worker(pod(self.name, placement=placement), report, None, policy_hash(self.policy))


class Fleet:
    """``models``: what each ImageModel is like; all of one size. ``room``: how many of them a worker holds."""

    def __init__(self, entry: PoolModel, *, workers: int = 2, room: int = 1, **models: Behaviour) -> None:
        self.kinds = {name.replace("_", "-"): kind for name, kind in models.items()}
        self.spec = PoolSpec(models=(entry,), replicas=workers)
        self.status: Json = {}
        self.command = ""
        self.now = NOW
        self.room = room
        self.workers: list[SimWorker] = []
        self.made = 0
        self.counts: dict[str, dict[str, Arm]] = {}
        self.served: dict[str, Served] = {}
        self.budgets: list[dict[str, Budget]] = [{}]
        """What callers got since the beginning, after each tick."""
        self.window = ""
        self.rate = 20
        """Requests of each tick."""
        self.gateways = True
        self.authors: dict[str, str] = {}
        self.plan = PoolPlan()
        for _ in range(workers):
            self.add_worker()

    # What people and the cluster do.

    def add_worker(self) -> None:
        self.made += 1
        self.workers.append(SimWorker(f"w{self.made}", int(self.room * BYTES / 0.9) + GIB))

    def set_entry(self, **fields: Any) -> None:
        self.spec = replace(self.spec, models=(replace(self.spec.models[0], **fields),))

    def say(self, command: str) -> None:
        self.command = f"{command} {len(self.command)}"

    # What is seen.

    @property
    def entry(self) -> Json:
        found: Json = self.status["models"][0]
        return found

    @property
    def rollout(self) -> Json:
        found: Json = self.entry.get("rollout", {})
        return found

    @property
    def traffic(self) -> dict[str, int]:
        return {share["model"]: share["percent"] for share in self.entry["traffic"]}

    @property
    def endings(self) -> list[str]:
        return [e["verdict"] for e in self.status.get("history", ())]

    def resident(self, name: str) -> int:
        return sum(w.states.get(name) == "Resident" for w in self.workers)

    def condition(self, kind: str) -> str:
        found = next((c for c in self.status["conditions"] if c["type"] == kind), None)
        return f"{found['status']} {found['reason']}" if found else ""

    def observed(self) -> PoolObserved:
        parent: Parent[PoolSpec] = Parent(
            "ns", "thumbs", "uid", 1, False, self.spec, "", self.status, self.command, self.authors
        )
        models: dict[str, Parent[ModelSpec] | None] = {
            name: model(name, size=1) if kind.exists else None for name, kind in self.kinds.items()
        }
        for found in models.values():
            if found is not None:
                found.status["performance"] = [{"accelerator": "cpu", "memory": str(BYTES)}]
        return PoolObserved(
            parent,
            models,
            deployment(len(self.workers), replicas=len(self.workers)),
            tuple(w.seen() for w in self.workers),
            figures={"shapes": self._figures()} if self.gateways else {},
        )

    # Time.

    def look(self) -> PoolPlan:
        """One pass: its status is written, its policies are given out."""
        self.plan = plan_pool(self.observed(), self.now)
        self.status = self.plan.status
        told = {p.worker.pod.name: p.policy for p in self.plan.workers}
        for worker in self.workers:
            worker.leaving = {}
            if worker.name in told:
                worker.obey(told[worker.name])
        return self.plan

    def tick(self, seconds: float = 1.0) -> None:
        """A pass, then time: loads go on, requests are served."""
        self.look()
        for worker in self.workers:
            worker.tick(self.kinds)
        self._serve()
        self.now += seconds

    def run(self, ticks: int, seconds: float = 1.0) -> "Fleet":
        for _ in range(ticks):
            self.tick(seconds)
        return self

    def _serve(self) -> None:
        window = self.entry.get("window", "")
        if window != self.window:
            self.window, self.counts = window, {}
        budgets: dict[str, Budget] = {}
        for name, percent in self.traffic.items():
            if self.resident(name):
                budgets[name] = self._draw(name, round(self.rate * percent / 100))
        for copied in self.entry.get("mirror", ()):
            self._draw(copied["model"], round(self.rate * copied["percent"] / 100))
        known = self.budgets[-1]
        self.budgets.append(known | {m: known.get(m, Budget()) + budget for m, budget in budgets.items()})

    def _draw(self, name: str, requests: int) -> Budget:
        kind = self.kinds[name]
        errors = round(requests * kind.errors)
        drawn = requests - errors
        unsafe = 0 if kind.unsafe is None else round(requests * kind.unsafe)
        checked = 0 if kind.unsafe is None else requests
        arms = self.counts.setdefault("shapes", {})
        arms[name] = arms.get(name, Arm()) + Arm(
            requests,
            errors,
            0,
            checked,
            unsafe,
            _moments(log(kind.seconds), drawn),
            _moments(kind.quality, drawn),
        )
        self.served[name] = self.served.get(name, Served()) + Served(requests, requests, self.now, self.now)
        return Budget(requests, errors, 0, checked, unsafe)

    def _lately(self, ticks: int) -> dict[str, Budget]:
        before = self.budgets[-1 - ticks] if len(self.budgets) > ticks else {}
        return {m: _less(budget, before.get(m, Budget())) for m, budget in self.budgets[-1].items()}

    def _figures(self) -> NameFigures:
        return NameFigures(
            self.window,
            dict(self.counts.get("shapes", {})),
            self._lately(300),
            self._lately(3600),
            dict(self.served),
        )


def _less(budget: Budget, earlier: Budget) -> Budget:
    return Budget(*(a - b for a, b in zip(astuple(budget), astuple(earlier), strict=True)))


def _moments(value: float | None, count: int) -> Moments:
    """So many measurements with a little spread: half of them a hundredth above, half of them below."""
    if value is None or not count:
        return Moments()
    return Moments(count, value * count, (value**2 + 0.0001) * count)


def fleet(*steps: RolloutStep, workers: int = 2, room: int = 1, **fields: object) -> Fleet:
    """A settled pool with ``a``, and ``b`` as it may be told."""
    known = {k: v for k, v in fields.items() if isinstance(v, Behaviour)}
    spec = {k: v for k, v in fields.items() if not isinstance(v, (Behaviour, AnalysisSpec))}
    analysis = next(
        (v for v in fields.values() if isinstance(v, AnalysisSpec)), AnalysisSpec(min_requests=20)
    )
    entry = PoolModel("shapes", "a", rollout=RolloutSpec(steps, analysis), **spec)  # type: ignore[arg-type]
    models = {"a": Behaviour(), "b": Behaviour(), "c": Behaviour(), **known}
    return Fleet(entry, workers=workers, room=room, **models).run(5)


def rolling(*steps: RolloutStep, **fields: object) -> Fleet:
    """The same, told to move to ``b``."""
    world = fleet(*steps, **fields)  # type: ignore[arg-type]
    world.set_entry(model="b")
    return world

"""Twelve models by Zipf's law on three workers that hold three each, in virtual time: the operator's placement, the
gateway's routing and the workers' loads and evictions together, each by its real plan.

What is played is the rest: a worker draws one request a tick and loads one model at a time (see ``Played``).
"""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

import pytest
from imagefleet_operator.plan.moves import HOLD_SECONDS, moves
from imagefleet_operator.plan.packing import Need, Outlook, Slot
from imagefleet_operator.plan.placement import Placement, place
from imagefleet_operator.plan.rollout_placement import Layout
from imagefleet_operator.store.demand import TELL_SECONDS, Recent
from imagefleet_runtime.gateway.loads import WorkerLoad
from imagefleet_runtime.gateway.routing import choose
from imagefleet_runtime.gateway.snapshot import Share
from imagefleet_runtime.worker.planning import Candidate, State, room_seconds

from tests.unit.gateway.builders import make_model, make_worker
from tests.unit.worker.test_taking_turns import LOAD_SECONDS, TICK, Played

SIZE, MEMORY = 10, 34  # three fit into nine tenths of it
MODELS = [f"m{at:02}" for at in range(1, 13)]
HOT, PROMISED = MODELS[0], MODELS[-1]
WEIGHTS = [1 / at for at in range(1, 13)]
CALLERS = 8
WORKERS = ("w1", "w2", "w3")


@dataclass
class Fleet:
    """Callers that ask for one picture after the other, and all that serves them."""

    random: Random
    now: float = 0.0
    played: dict[str, Played] = field(default_factory=dict)
    loads: dict[str, WorkerLoad] = field(default_factory=dict)
    pinned: dict[str, frozenset[str]] = field(default_factory=lambda: dict.fromkeys(WORKERS, frozenset()))
    demand: dict[str, Recent] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    moves: list[tuple[float, str]] = field(default_factory=list)
    changed: float = 0.0
    line: deque[tuple[float, str]] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    drawn: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        absent = Candidate("", False, State.ABSENT, SIZE, None, False, 0.0, load_seconds=LOAD_SECONDS)
        for name in WORKERS:
            models = {model: replace(absent, model=model) for model in MODELS}
            self.played[name] = Played(MEMORY, models)
            self.loads[f"uid-{name}"] = WorkerLoad()
        self.line.extend((0.0, self.ask()) for _ in range(CALLERS))

    def ask(self) -> str:
        return self.random.choices(MODELS, WEIGHTS)[0]

    def allowed(self, worker: str, model: str) -> bool:
        held = self.pinned[worker]
        return model in held or (len(held) + 1) * SIZE <= MEMORY

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK)):
            if self.now % TELL_SECONDS == 0:
                self.place()
            self.route()
            for name, worker in self.played.items():
                self.tick(name, worker)
            self.now += TICK

    def place(self) -> None:
        """The operator's pass."""
        known = {m: self.demand.get(m, Recent()).now(self.now) for m in MODELS}
        held = {m for m, at in self.moved.items() if self.now - at < HOLD_SECONDS}
        needs = [
            Need(
                m,
                int(m == PROMISED),
                SIZE,
                Outlook(known[m], LOAD_SECONDS, m in held) if any(known.values()) else None,
            )
            for m in MODELS
        ]
        slots = [Slot(name, MEMORY, self.pinned[name]) for name in WORKERS]
        placed = place(needs, slots)
        for move in moves(slots, Layout(tuple(needs), placed, {}, {}, frozenset())):
            self.moved[move.model] = self.now
            self.moves.append((self.now, move.model))
        self.apply(placed)

    def apply(self, placed: Placement) -> None:
        if placed.pinned != self.pinned:
            self.changed = self.now
        self.pinned = dict(placed.pinned)
        for name, worker in self.played.items():
            for model in MODELS:
                worker.set(model, pinned=model in self.pinned[name])
            gone = [(at, m) for at, m in worker.waiting if not self.allowed(name, m)]
            worker.waiting = [job for job in worker.waiting if job not in gone]
            self.line.extendleft(gone)

    def route(self) -> None:
        """The gateway sends on what it can."""
        for _ in range(len(self.line)):
            at, model = self.line.popleft()
            view = make_model(model, rate=TICK / 10, load_seconds=LOAD_SECONDS)
            able = [name for name in WORKERS if self.allowed(name, model)]
            workers = tuple(
                make_worker(name, placement=((model, model in self.pinned[name]),)) for name in able
            )
            share = Share("art", "thumbs", model, 100.0, view, workers)
            choice = choose([[share]], self.loads, self.now, lambda _: 10.0, 60.0, (), self.random.random)
            if choice is None:
                self.line.append((at, model))
                continue
            self.loads[choice.worker.uid].sent(model, choice.work_seconds, choice.load_seconds, self.now)
            self.played[choice.worker.pod].waiting.append((at, model))

    def tick(self, name: str, worker: Played) -> None:
        before = sum(worker.drawn.values())
        worker.tick()
        load = self.loads[f"uid-{name}"]
        ready = [m for _, m in worker.waiting if worker.models[m].state is State.RESIDENT]
        if sum(worker.drawn.values()) > before:
            model = next(m for m, c in worker.models.items() if c.running)
            wait = worker.waits[model][-1]
            self.waits.append(wait)
            self.drawn[model] = self.drawn.get(model, 0) + 1
            self.demand[model] = Recent(self.demand.get(model, Recent()).now(self.now) + TICK, self.now)
            load.ended(model, TICK, 0.0, 0.0, self.now)
            load.report(len(worker.waiting) * TICK, self.now, len(ready) * TICK)
            load.hold(held(worker), room_seconds(worker.candidates(), MEMORY), self.now)
            self.line.append((self.now, self.ask()))


def held(worker: Played) -> str:
    """What the worker says that it holds."""
    there = [m for m, c in worker.models.items() if c.state is State.RESIDENT]
    loading = [f"{m}={max(0.0, at - worker.now)}" for m, at in [worker.loading or ("", 0.0)] if m]
    return ",".join(there + loading)


@pytest.mark.parametrize("seed", range(2))
def test_hot_models_are_on_several_workers_and_the_others_take_turns(seed: int) -> None:
    fleet = Fleet(Random(seed))
    fleet.run(600)
    copies = {m: sum(m in held for held in fleet.pinned.values()) for m in MODELS}
    assert copies[HOT] >= 2
    assert copies[PROMISED] >= 1, "minResident stands, however seldom it is asked for"
    assert min(copies.values()) == 0, "not all have a place"
    assert fleet.drawn.keys() == set(MODELS), "and yet all are drawn"
    waiting = [at for at, _ in [*fleet.line, *(job for w in fleet.played.values() for job in w.waiting)]]
    assert max([*fleet.waits, *(fleet.now - at for at in waiting)]) <= 15 * LOAD_SECONDS, "nobody starves"
    assert fleet.now - fleet.changed >= 120, "the placement has settled"
    for model in MODELS:
        at = [when for when, moved in fleet.moves if moved == model]
        assert all(later - sooner >= HOLD_SECONDS for sooner, later in pairwise(at))

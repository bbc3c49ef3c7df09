"""Many models on a worker that holds few: nobody starves, and the accelerator does not load all the time.

The worker is played tick by tick with the real plans: it draws one request at a time, and loads one model at a time.
"""

from dataclasses import dataclass, field, replace

import pytest
from imagefleet_runtime.worker.demand import Demand
from imagefleet_runtime.worker.planning import Candidate, LoadNext, State, giving_way, plan

LOAD_SECONDS = 4.0
TICK = 0.25
"""Also how long a request is drawn."""


@dataclass
class Played:
    """A worker with room for so many models."""

    room: int
    models: dict[str, Candidate]
    now: float = 0.0
    waiting: list[tuple[float, str]] = field(default_factory=list)
    demand: dict[str, Demand] = field(default_factory=dict)
    loading: tuple[str, float] | None = None
    loads: int = 0
    drawn: dict[str, int] = field(default_factory=dict)
    waits: dict[str, list[float]] = field(default_factory=dict)

    def candidates(self) -> list[Candidate]:
        oldest: dict[str, float] = {}
        for at, model in self.waiting:
            oldest.setdefault(model, at)
        return [
            replace(c, oldest=oldest.get(name), demand=self.demand.setdefault(name, Demand()).at(self.now))
            for name, c in self.models.items()
        ]

    def tick(self) -> None:
        candidates = self.candidates()
        until = giving_way(candidates, self.room, self.now)
        if self.loading is None:
            step = plan(candidates, self.room, self.now)
            if isinstance(step, LoadNext):
                for name in step.evict:
                    self.set(name, state=State.ABSENT)
                self.set(step.model, state=State.LOADING)
                self.loading = step.model, self.now + LOAD_SECONDS
                self.loads += 1
        elif self.loading[1] <= self.now:
            self.set(self.loading[0], state=State.RESIDENT, loaded=self.now, last_used=self.now)
            self.loading = None
        self.draw(until)
        self.now += TICK

    def keep_asking(self, model: str) -> None:
        """Somebody always waits for it."""
        while sum(name == model for _, name in self.waiting) < 2:
            self.waiting.append((self.now, model))

    def set(self, name: str, **fields: object) -> None:
        self.models[name] = replace(self.models[name], **fields)  # type: ignore[arg-type]

    def draw(self, until: dict[str, float]) -> None:
        """The first that may begin; it runs until the next tick."""
        for name in self.models:
            self.set(name, running=False)
        for at, name in self.waiting:
            resident = self.models[name].state is State.RESIDENT
            if resident and at <= until.get(name, self.now):
                self.waiting.remove((at, name))
                self.demand[name].add(TICK, self.now)
                self.set(name, running=True, last_used=self.now)
                self.drawn[name] = self.drawn.get(name, 0) + 1
                self.waits.setdefault(name, []).append(self.now - at)
                return


def worker(room: int, names: str) -> Played:
    absent = Candidate("", False, State.ABSENT, 1, None, False, 0.0, load_seconds=LOAD_SECONDS)
    return Played(room, {name: replace(absent, model=name) for name in names})


def test_a_model_that_never_pauses_lets_one_that_is_asked_for_now_and_then_in() -> None:
    played = worker(1, "hc")
    for tick in range(int(600 / TICK)):
        played.keep_asking("h")
        if tick % int(60 / TICK) == int(30 / TICK):
            played.waiting.append((played.now, "c"))
        played.tick()
    assert played.drawn["c"] == 10
    assert max(played.waits["c"]) <= 2 * LOAD_SECONDS
    assert played.drawn["h"] * TICK >= 0.8 * played.now, "it draws on for most of the time"


@pytest.mark.parametrize("room", [1, 2, 3])
def test_models_that_all_have_work_take_turns_and_loads_take_a_third_of_the_time_at_most(room: int) -> None:
    played = worker(room, "abcdef")
    for _ in range(int(600 / TICK)):
        for name in "abcdef":
            played.keep_asking(name)
        played.tick()
    assert (played.loads - room) * LOAD_SECONDS <= played.now / 3 + LOAD_SECONDS
    longest = max(max(waits) for waits in played.waits.values())
    assert longest <= len("abcdef") * 3 * LOAD_SECONDS, "the loads of all, and the time between them"


def test_models_that_are_asked_for_one_after_the_other_each_wait_for_their_load_alone() -> None:
    played = worker(2, "abcdef")
    for turn in range(60):
        played.waiting.append((played.now, "abcdef"[turn % 6]))
        for _ in range(int(10 / TICK)):
            played.tick()
    assert not played.waiting
    assert max(max(waits) for waits in played.waits.values()) <= LOAD_SECONDS + 2 * TICK


def test_of_models_without_work_the_one_of_most_use_stays() -> None:
    played = worker(2, "habcde")
    for turn in range(60):
        played.waiting += [(played.now, "h")] * 4 + [(played.now, "abcde"[turn % 5])]
        for _ in range(int(10 / TICK)):
            played.tick()
    assert played.models["h"].state is State.RESIDENT
    assert played.loads <= 62, "the hot one was loaded once, the others each time they were asked for"

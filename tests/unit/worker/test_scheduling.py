import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker.scheduling import (
    PATIENCE,
    Batch,
    Key,
    Speed,
    Task,
    batched_seconds,
    choose,
    ends,
    place_free_after,
    rank,
)

SMALL, LARGE, OTHER = Key("a", 512, 512), Key("a", 1024, 1024), Key("b", 512, 512)
NO_SLOWER = Speed(4, lambda _batch: 1.0)  # up to four at the price of one
NO_GAIN = Speed(4, float)


def task(key: Key = SMALL, **fields: Any) -> Task:
    """One picture of 10 s that came at 0 and is wanted by 30."""
    base = Task(
        id=0,
        key=key,
        priority="interactive",
        arrived=0.0,
        deadline=30.0,
        seconds=10.0,
        pictures=1,
        remaining=10.0,
    )
    return replace(base, **fields)


def tasks(*given: Task) -> list[Task]:
    return [replace(entry, id=number) for number, entry in enumerate(given)]


LONG_WAIT: dict[str, Any] = {"arrived": -PATIENCE - 1.0, "deadline": 3600.0}

RANKS = {
    "interactive goes before batch": (task(priority="batch", deadline=11.0), task(deadline=99.0)),
    "the one with the least slack goes first": (task(deadline=40.0), task(deadline=30.0)),
    "much work leaves little slack": (task(), task(remaining=25.0)),
    "of two with the same slack, the older one": (task(arrived=1.0), task(arrived=0.0)),
    "a long wait makes a request of class batch interactive": (task(), task(priority="batch", **LONG_WAIT)),
    "a distant deadline is no reason to wait for ever": (task(), task(**LONG_WAIT)),
}


@pytest.mark.parametrize(("second", "first"), RANKS.values(), ids=RANKS.keys())
def test_who_goes_first(second: Task, first: Task) -> None:
    assert rank(first, 0.0) < rank(second, 0.0)


@pytest.mark.parametrize(("arrived", "deadline", "want"), [(100.0, 130.0, 118.0), (100.0, 3700.0, 700.0)])
def test_when_a_request_is_due(arrived: float, deadline: float, want: float) -> None:
    assert task(arrived=arrived, deadline=deadline, remaining=12.0).due == want


requests = st.builds(
    lambda arrived, wanted, remaining, priority: task(
        arrived=arrived, deadline=arrived + wanted, remaining=remaining, priority=priority
    ),
    arrived=st.floats(0, 5000),
    wanted=st.floats(0.1, 1e6),
    remaining=st.floats(0, 300),
    priority=st.sampled_from(["interactive", "batch"]),
)


@given(requests, requests, st.floats(0, 1000))
def test_nobody_is_overtaken_by_one_that_comes_much_later(old: Task, new: Task, later: float) -> None:
    """Not after PATIENCE and the longest request (300 s here)."""
    new = replace(new, arrived=new.arrived + old.arrived + PATIENCE + 301.0)
    new = replace(new, deadline=max(new.deadline, new.arrived + 0.1))
    assert rank(old, new.arrived + later) < rank(new, new.arrived + later)


ENDS = {
    "the worked example": ([1.0, 3.0], {1: 1.0, 2: 1.5}, [1.5, 3.5]),
    "alone": ([2.0], {1: 1.0}, [2.0]),
    "nobody": ([], {}, []),
    "without gain, as long as one after the other": ([2.0, 2.0], {1: 1.0, 2: 2.0}, [4.0, 4.0]),
}


@pytest.mark.parametrize(("remaining", "slowdown", "want"), ENDS.values(), ids=ENDS.keys())
def test_when_the_pictures_of_a_batch_end(
    remaining: list[float], slowdown: dict[int, float], want: list[float]
) -> None:
    assert ends(remaining, slowdown.__getitem__) == want


def running(*remaining: float, key: Key = SMALL) -> Batch:
    return Batch(key, remaining)


@dataclass(frozen=True)
class Row:
    batch: Batch
    waiting: list[Task]
    want: list[int]  # who begins, by position
    speed: Speed = NO_SLOWER
    now: float = 0.0


CHOICES = {
    "nobody waits": Row(Batch(), [], []),
    "a free device takes the first": Row(Batch(), [task(LARGE, deadline=20.0), task()], [0]),
    "those of its key join it": Row(Batch(), [task(), task(), task()], [0, 1, 2]),
    "no more than the cap": Row(running(5.0, 5.0, 5.0), [task(), task()], [0]),
    "a full batch takes nobody": Row(running(1.0, 1.0, 1.0, 1.0), [task()], []),
    "pictures of one request share a batch": Row(Batch(), [task(pictures=3)], [0, 0, 0]),
    "a request begins as many pictures as there are slots": Row(running(5.0), [task(pictures=9)], [0, 0, 0]),
    "another size waits until the batch ends": Row(running(5.0), [task(LARGE)], []),
    "another model waits until the batch ends": Row(running(5.0), [task(OTHER)], []),
    "other adapters wait until the batch ends": Row(
        running(5.0), [task(replace(SMALL, adapters=(("pixel", 0.8),)))], []
    ),
    "cancelled pictures hold the device until they end": Row(Batch(SMALL), [task(LARGE)], []),
    "their slots are free at once": Row(Batch(SMALL), [task()], [0]),
    "one that delays nobody overtakes": Row(
        running(12.0), [task(LARGE, deadline=11.0), task(deadline=40.0)], [1]
    ),
    "one that would delay the first in a hurry does not": Row(
        running(5.0), [task(LARGE, deadline=11.0), task(deadline=40.0)], []
    ),
    "one that leaves the first half of its slack overtakes": Row(
        running(5.0), [task(LARGE, deadline=30.0), task(deadline=40.0)], [1]
    ),
    "one that would use up more of it does not": Row(
        running(5.0), [task(LARGE, deadline=29.0), task(deadline=40.0)], []
    ),
    "a slower batch counts as delay": Row(
        running(12.0), [task(LARGE, deadline=11.0), task(deadline=40.0)], [], speed=NO_GAIN
    ),
    "only what ranks lower is overtaken": Row(
        running(5.0), [task(LARGE, priority="batch"), task(seconds=99.0)], [1]
    ),
    "a new batch overtakes nobody for long": Row(
        Batch(), [task(deadline=12.0), task(LARGE, deadline=13.0), task(deadline=40.0, seconds=30.0)], [0]
    ),
}


@pytest.mark.parametrize("row", CHOICES.values(), ids=CHOICES.keys())
def test_who_begins(row: Row) -> None:
    chosen = choose(row.batch, tasks(*row.waiting), row.now, lambda _key: row.speed)
    assert [entry.id for entry in chosen] == row.want


KEYS = st.sampled_from([SMALL, LARGE, OTHER])
TASKS = st.lists(
    st.builds(
        lambda key, priority, arrived, wanted, seconds, pictures: task(
            key,
            priority=priority,
            arrived=arrived,
            deadline=arrived + wanted,
            seconds=seconds,
            pictures=pictures,
            remaining=seconds * pictures,
        ),
        KEYS,
        st.sampled_from(["interactive", "batch"]),
        st.floats(0, 100),
        st.floats(1, 4000),
        st.floats(0.5, 60),
        st.integers(1, 4),
    ),
    max_size=8,
).map(lambda given: tasks(*given))
SPEEDS = st.sampled_from([NO_SLOWER, NO_GAIN, Speed(1, float), Speed(3, lambda batch: 0.6 + 0.4 * batch)])
BATCHES = st.just(Batch()) | st.builds(Batch, KEYS, st.lists(st.floats(0.1, 60), max_size=3).map(tuple))


@given(BATCHES, TASKS, st.floats(0, 1000), SPEEDS)
def test_a_batch_is_of_one_key_and_never_over_its_cap(
    batch: Batch, waiting: list[Task], now: float, speed: Speed
) -> None:
    chosen = choose(batch, waiting, now, lambda _key: speed)
    assert len({entry.key for entry in chosen} | ({batch.key} if batch.key else set())) <= 1
    assert not chosen or len(batch.remaining) + len(chosen) <= speed.cap
    assert all(chosen.count(entry) <= entry.pictures for entry in waiting)


@given(TASKS, st.floats(0, 1000), SPEEDS)
def test_a_free_device_never_stays_idle_and_takes_the_first(
    waiting: list[Task], now: float, speed: Speed
) -> None:
    chosen = choose(Batch(), waiting, now, lambda _key: speed)
    if waiting:
        assert chosen[0] == min(waiting, key=lambda entry: rank(entry, now))


@given(BATCHES, TASKS, st.floats(0, 1000), SPEEDS)
def test_one_without_slack_is_never_delayed_by_those_behind_it(
    batch: Batch, waiting: list[Task], now: float, speed: Speed
) -> None:
    chosen = choose(batch, waiting, now, lambda _key: speed)
    first = min(waiting, key=lambda entry: rank(entry, now), default=None)
    if first is None or batch.key in (None, first.key) or first.due > now:
        return
    before = max(ends(batch.remaining, speed.slowdown), default=0.0)
    after = max(ends([*batch.remaining, *(entry.seconds for entry in chosen)], speed.slowdown), default=0.0)
    assert after <= before + 1e-6


def test_what_batching_saves() -> None:
    speed = Speed(2, {1: 1.0, 2: 1.25}.__getitem__)
    assert batched_seconds([(SMALL, 1.0)] * 4, lambda _key: speed) == pytest.approx(2.5)  # the worked example
    assert batched_seconds([(SMALL, 1.0), (LARGE, 1.0)], lambda _key: speed) == 2.0
    assert batched_seconds([], lambda _key: speed) == 0.0


def test_a_batch_that_gains_nothing_saves_nothing() -> None:
    assert NO_GAIN.gain(9) == 1.0
    assert Speed(2, lambda batch: 3.0 * batch).gain(2) == 1.0


# The estimate of when a place is free, against a device that draws in small steps of time.


TICK = 0.05  # seconds


@dataclass
class Device:
    """Draws as the dispatcher has it drawn, in steps of ``tick`` seconds; knows nothing of the estimate."""

    speed: Speed
    tick: float
    now: float = 0.0
    key: Key | None = None
    left: list[float] = field(default_factory=list)  # seconds alone, of each picture being drawn
    begun: set[int] = field(default_factory=set)

    def begin(self, waiting: list[Task]) -> list[Task]:
        for entry in choose(Batch(self.key, tuple(self.left)), waiting, self.now, lambda _key: self.speed):
            self.key = entry.key
            self.left.append(entry.seconds)
            self.begun.add(entry.id)
            waiting = [_one_less(other) if other.id == entry.id else other for other in waiting]
        return [entry for entry in waiting if entry.pictures]

    def step(self) -> None:
        progress = self.tick / self.speed.slowdown(len(self.left))
        self.left = [seconds - progress for seconds in self.left if seconds > progress]
        self.key = self.key if self.left else None
        self.now += self.tick


def _one_less(entry: Task) -> Task:
    return replace(entry, pictures=entry.pictures - 1, begun=True)


@settings(max_examples=60, deadline=None)
@given(
    TASKS.filter(bool), st.lists(st.booleans(), min_size=8), st.lists(st.floats(0.5, 5), max_size=3), SPEEDS
)
def test_a_place_is_free_when_the_estimate_says(
    waiting: list[Task], begun: list[bool], remaining: list[float], speed: Speed
) -> None:
    """All that is uncertain is excluded: rates are exact, and nobody comes or leaves."""
    # In no hurry: a decision at the edge of someone's slack could fall either way within a tick.
    waiting = [
        replace(entry, arrived=1e6 + entry.arrived, deadline=math.inf, begun=flag, seconds=entry.seconds / 10)
        for entry, flag in zip(waiting, begun, strict=False)
    ]
    key = SMALL if remaining else None
    device = Device(speed, tick=TICK, key=key, left=list(remaining))
    estimate = place_free_after(Batch(key, tuple(remaining)), waiting, 0.0, lambda _key: speed)
    places = {entry.id for entry in waiting if not entry.begun}
    if not places:
        assert estimate is None
        return
    left = device.begin(waiting)
    while not device.begun & places:
        device.step()
        left = device.begin(left)
    rounds = len(remaining) + sum(entry.pictures for entry in waiting)
    assert estimate == pytest.approx(device.now, abs=TICK * (rounds + 1))


def test_places_of_requests_that_were_begun_are_free_already() -> None:
    """Their other pictures go first, and only then does one that waits leave the queue."""
    waiting = tasks(task(pictures=2, begun=True, deadline=20.0), task())
    alone: Callable[[Key], Speed] = lambda _key: Speed(1, float)  # noqa: E731
    assert place_free_after(running(5.0), waiting, 0.0, alone) == pytest.approx(5.0 + 10.0 + 10.0)


def test_without_anyone_who_waits_there_is_nothing_to_estimate() -> None:
    assert place_free_after(running(5.0), [], 0.0, lambda _key: NO_SLOWER) is None

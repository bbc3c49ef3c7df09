"""Who gives way to whom, by the pure functions, and as engines are told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker import scheduling
from imagefleet_runtime.worker.messages import Continue, Pause
from imagefleet_runtime.worker.scheduling import (
    Batch,
    Key,
    Speed,
    Task,
    choose,
    is_urgent,
    rank,
    to_pause,
)

from tests.unit.worker.desk import Desk
from tests.unit.worker.engine_fakes import PlayedEngine
from tests.unit.worker.test_scheduling import LARGE, LONG_WAIT, NO_SLOWER, OTHER, SMALL, task, tasks

pytestmark = pytest.mark.timeout(60)  # one that waits for an order that does not come fails soon


def batch(key: Key = SMALL, **fields: Any) -> Task:
    return task(key, **{"priority": "batch", "deadline": 3600.0, **fields})


FULL = [batch(arrived=0.0), batch(arrived=1.0), batch(arrived=2.0), task()]  # of four that gain

WAYS: dict[str, tuple[list[Task], list[Task], list[int]]] = {
    "nobody waits": ([batch()], [], []),
    "nobody draws": ([], [task()], []),
    "a batch of another key ends for an urgent one": ([batch(), batch(arrived=1.0)], [task(LARGE)], [1, 0]),
    "of another model, too": ([batch()], [task(OTHER)], [0]),
    "not for one that is not urgent": ([batch()], [batch(LARGE)], []),
    "not while something urgent is in it": ([batch(), task()], [task(LARGE)], []),
    "not where its engine cannot": ([replace(batch(), pausable=False), batch()], [task(LARGE)], []),
    "there is room beside those of its key": ([batch()], [task()], []),
    "in a full batch, one gives way to one": (FULL, [task()], [2]),
    "and two to two": (FULL, [task(pictures=2)], [2, 1]),
    "and no more than there are": (FULL, [task(pictures=9)], [2, 1, 0]),
    "a full batch does not change for those behind one of another key": (
        FULL,
        [task(LARGE, deadline=11.0), task(deadline=40.0)],
        [],
    ),
    "one that has waited for long gives way to nobody": ([batch(), batch(**LONG_WAIT)], [task(LARGE)], []),
    "and others give way to it": ([batch()], [batch(LARGE, **LONG_WAIT)], [0]),
}


@pytest.mark.parametrize(("running", "waiting", "want"), WAYS.values(), ids=WAYS)
def test_who_gives_way(running: list[Task], waiting: list[Task], want: list[int]) -> None:
    found = to_pause(tasks(*running), tasks(*waiting), 0.0, lambda _key: NO_SLOWER)
    assert [each.id for each in found] == want


def test_what_is_not_urgent_never_overtakes_what_is() -> None:
    waiting = tasks(task(LARGE, deadline=1e6), batch())
    assert choose(Batch(SMALL, (5.0,)), waiting, 0.0, lambda _key: NO_SLOWER) == []


ANY = st.builds(
    lambda key, priority, arrived, seconds, pictures: task(
        key,
        priority=priority,
        arrived=arrived,
        deadline=arrived + (30.0 if priority == "interactive" else 3600.0),
        seconds=seconds,
        pictures=pictures,
        remaining=seconds * pictures,
    ),
    st.sampled_from([SMALL, LARGE, OTHER]),
    st.sampled_from(["interactive", "batch"]),
    st.floats(0, 900),
    st.floats(0.5, 60),
    st.integers(1, 3),
)
SPEEDS = st.sampled_from([NO_SLOWER, Speed(1, float), Speed(3, lambda pictures: 0.6 + 0.4 * pictures)])


def _decide(
    running: list[Task], waiting: list[Task], now: float, speed: Speed
) -> tuple[list[Task], list[Task]]:
    """Who draws and who waits after the pictures that give way have, and others have begun."""
    paused = to_pause(running, waiting, now, lambda _key: speed)
    staying = [each for each in running if each not in paused]
    key = staying[0].key if staying else None
    begun = choose(Batch(key, tuple(each.seconds for each in staying)), waiting, now, lambda _key: speed)
    return [*staying, *begun], [each for each in waiting if each not in begun]


@given(
    st.lists(ANY.map(lambda each: replace(each, pictures=1)), max_size=3),
    st.lists(ANY, max_size=6),
    st.floats(900, 1600),
    SPEEDS,
)
def test_an_urgent_request_waits_only_for_urgent_ones(
    running: list[Task], waiting: list[Task], now: float, speed: Speed
) -> None:
    running = [replace(each, key=SMALL, id=100 + number) for number, each in enumerate(running)][: speed.cap]
    drawing, left = _decide(running, tasks(*waiting), now, speed)
    assert len(drawing) <= max(speed.cap, len(running))
    assert [each for each in running if is_urgent(each, now) and each not in drawing] == []
    if any(is_urgent(each, now) for each in left):
        assert any(is_urgent(each, now) for each in drawing)


TICK = 1.0  # seconds
SHORT = 20.0  # instead of PATIENCE


@dataclass
class Counter:
    """A device whose callers come and come; pictures of one second's steps. Knows nothing of who should go first."""

    speed: Speed
    now: float = 0.0
    drawing: list[Task] = field(default_factory=list)
    waiting: list[Task] = field(default_factory=list)
    ended: dict[int, float] = field(default_factory=dict)

    def tick(self) -> None:
        running, waiting = self.drawing, self.waiting
        paused = to_pause(running, waiting, self.now, lambda _key: self.speed)
        self.drawing = [each for each in running if each not in paused]
        # What was put aside still holds the device for the step that it is at: nobody of another key begins before.
        key = running[0].key if running else None
        batch_now = Batch(key, tuple(each.seconds for each in self.drawing))
        begun = choose(batch_now, waiting, self.now, lambda _key: self.speed)
        self.drawing += begun
        self.waiting = [each for each in waiting if each not in begun] + paused
        self.now += TICK
        progress = TICK / self.speed.slowdown(max(len(self.drawing), 1))
        for each in self.drawing:
            if each.seconds <= progress:
                self.ended[each.id] = self.now
        self.drawing = [
            replace(each, seconds=each.seconds - progress, remaining=each.seconds - progress)
            for each in self.drawing
            if each.seconds > progress
        ]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.sampled_from([SMALL, LARGE]), st.integers(1, 10)),
        min_size=1,
        max_size=3,
    ),
    st.integers(2, 4),
    SPEEDS,
)
def test_nobody_starves_while_urgent_requests_come_without_end(
    batches: list[tuple[int, Key, int]], every: int, speed: Speed
) -> None:
    """Interactive pictures of four seconds come faster than they can be drawn. Those of class batch, put aside again
    and again, are done within PATIENCE, what was urgent before them, and their own time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduling, "PATIENCE", SHORT)  # so that it can be played out
        _play(batches, every, Counter(speed))


def _play(batches: list[tuple[int, Key, int]], every: int, counter: Counter) -> None:
    came = {number: float(second) for number, (second, _key, _seconds) in enumerate(batches)}
    number = len(batches)
    while len(counter.ended.keys() & came.keys()) < len(came):
        assert counter.now < 500.0
        for index, (second, key, seconds) in enumerate(batches):
            if counter.now == second:
                counter.waiting.append(
                    task(
                        key,
                        priority="batch",
                        arrived=counter.now,
                        deadline=counter.now + 3600.0,
                        id=index,
                        seconds=float(seconds),
                        remaining=float(seconds),
                    )
                )
        if counter.now % every == 0:
            counter.waiting.append(
                task(
                    LARGE,
                    arrived=counter.now,
                    deadline=counter.now + 30.0,
                    id=number,
                    seconds=4.0,
                    remaining=4.0,
                )
            )
            number += 1
        counter.tick()
    # What came before they were urgent goes first, and what ran then; each beside as many as make it the slowest.
    speed = counter.speed
    before = 4.0 * (10 + SHORT) / every + 4.0 * speed.cap
    work = before + sum(seconds for _second, _key, seconds in batches)
    bound = SHORT + work * speed.slowdown(speed.cap) + 10 * TICK
    assert all(counter.ended[index] - came[index] <= bound for index in came)


# As engines are told


async def test_an_interactive_request_of_another_size_goes_before_a_running_batch_which_goes_on_after_it(
    desk: Desk, engine: PlayedEngine
) -> None:
    slow = desk.submit(n=2, priority="batch")
    orders = await engine.draws(2)
    fast = desk.submit(width=64, height=64, seed=9)
    asked = {(await engine.order(Pause)).id for _ in orders}
    assert asked == {order.id for order in orders}
    await desk.settled()
    assert not engine.has_orders, "the step that they are at has not ended"
    for order in orders:
        engine.paused(order.id)
    quick = await engine.draw()
    assert quick.seed == 9
    engine.drawn(quick)
    assert (await fast.result).images == (b"picture 9",)
    assert {(await engine.order(Continue)).id for _ in orders} == asked
    for order in orders:
        engine.drawn(order)
    assert (await slow.result).images == (b"picture 0", b"picture 1")
    assert desk.metric("preempted_total") == 2


async def test_another_models_engine_draws_once_the_batch_is_put_aside(
    desk: Desk, engine: PlayedEngine
) -> None:
    desk.submit(priority="batch")
    order = await engine.draw()
    desk.submit("b", seed=9)
    await engine.order(Pause)
    await desk.settled()
    assert not desk.engines["b"].has_orders
    engine.paused(order.id)
    other = await desk.engines["b"].draw()
    assert desk.dispatcher.running(desk.models["a"]), "its engine must not be unloaded"
    desk.engines["b"].drawn(other)
    assert (await engine.order(Continue)).id == order.id


async def test_in_a_full_batch_the_slot_is_free_at_once(desk: Desk, engine: PlayedEngine) -> None:
    desk.submit(n=4, priority="batch")
    orders = await engine.draws(4)
    desk.submit(seed=9)
    assert (await engine.order(Pause)).id in {order.id for order in orders}
    assert (await engine.draw()).seed == 9


async def test_a_picture_that_ends_instead_of_waiting_is_done(desk: Desk, engine: PlayedEngine) -> None:
    slow = desk.submit(priority="batch")
    order = await engine.draw()
    desk.submit(width=64, height=64, seed=9)
    await engine.order(Pause)
    engine.drawn(order)
    assert (await slow.result).images == (b"picture 0",)
    assert (await engine.draw()).seed == 9


async def test_a_caller_that_leaves_takes_what_was_put_aside_with_it(
    desk: Desk, engine: PlayedEngine
) -> None:
    slow = desk.submit(priority="batch")
    order = await engine.draw()
    desk.submit(width=64, height=64, seed=9)
    await engine.order(Pause)
    engine.paused(order.id)
    quick = await engine.draw()
    slow.result.cancel()
    desk.dispatcher.cancel(slow)
    assert (await engine.cancel()).id == order.id
    engine.cancelled(order.id)
    engine.drawn(quick)
    await desk.dispatcher.idle()
    await desk.settled()
    assert not engine.has_orders
    assert not desk.dispatcher.running(desk.models["a"])


async def test_what_is_put_aside_is_not_called_hung() -> None:
    desk = Desk(max_request_seconds=0.3)
    engine, other = desk.engines["a"], desk.engines["b"]
    desk.models["a"].rate = desk.models["b"].rate = 1e-6
    desk.submit(priority="batch")
    order = await engine.draw()
    desk.submit("b")
    await engine.order(Pause)
    engine.paused(order.id)
    quick = await other.draw()
    for _ in range(10):
        other.stepped(quick)
        await desk.seconds(0.1)
    assert engine.process.exitcode is None
    desk.running.cancel()
    for each in desk.engines.values():
        each.process.kill()


async def test_one_that_would_make_others_give_way_begins_at_once(desk: Desk, engine: PlayedEngine) -> None:
    desk.submit(n=4, priority="batch")
    await engine.draws(4)
    urgent = [desk.job(width=64, height=64), desk.job()]
    assert all(desk.dispatcher.begins_at_once(job) for job in urgent)
    assert not desk.dispatcher.begins_at_once(desk.job(priority="batch"))


def test_who_waits_longest_of_two_put_aside_goes_on_first() -> None:
    assert rank(batch(arrived=0.0), 10.0) < rank(batch(arrived=1.0), 10.0)

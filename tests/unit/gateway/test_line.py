"""Who waits, who goes first, and when."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from imagefleet_runtime.gateway import line as line_module
from imagefleet_runtime.gateway.line import Line, LineFullError
from imagefleet_runtime.gateway.loads import Loads
from imagefleet_runtime.gateway.routing import Choice, Wait
from imagefleet_runtime.gateway.snapshot import Share

from tests.unit.gateway.builders import make_model, make_worker, until

NOW = 1000.0
WORKER = make_worker()
VIEW = make_model()
SHARE = Share("art", "thumbs", "shapes-1", 100.0, VIEW, (WORKER,))


@dataclass
class Gate:
    """A worker with room for work of so many seconds, as far as the line's own bookings say."""

    loads: Loads = field(default_factory=Loads)
    seconds: float = 0.0
    now: float = NOW

    def __post_init__(self) -> None:
        self.loads.keep([WORKER])

    def place(self, work: float, wait: Wait = Wait.FULL, load_seconds: float = 0.0) -> Choice | Wait:
        if self.loads[WORKER.uid].work_left(self.now) >= self.seconds:
            return wait
        return Choice(SHARE, VIEW, WORKER, work, load_seconds)


@dataclass
class Request:
    """A request in the line."""

    gate: Gate
    lane: object = "lane"
    batch: bool = False
    first: bool = False
    arrived: float = NOW
    start_by: float = NOW + 30
    work_seconds: float = 1.0
    shares: tuple[Share, ...] = (SHARE,)
    seen: Callable[[], bool] = lambda: True
    placed: Callable[[float], Choice | Wait] | None = None

    @property
    def order(self) -> tuple[bool, float]:
        return not self.first, self.arrived

    def look(self) -> bool:
        return self.seen()

    def place(self, waiting: float = 0.0) -> Choice | Wait:
        return self.placed(waiting) if self.placed else self.gate.place(self.work_seconds)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def line(gate: Gate) -> Iterator[Line]:
    line = Line(10, gate.loads, lambda: gate.now, ahead_seconds=3.0)
    yield line
    line.close()


ORDERS: dict[str, tuple[dict[str, Request], list[str]]] = {
    "first come, first served": (
        {"b": Request(Gate(), arrived=2), "a": Request(Gate(), arrived=1)},
        ["a", "b"],
    ),
    "interactive before batch": (
        {"batch": Request(Gate(), batch=True, arrived=1), "interactive": Request(Gate(), arrived=2)},
        ["interactive", "batch"],
    ),
    "those in time before those that are late": (
        {"late": Request(Gate(), arrived=1, start_by=NOW - 1), "in time": Request(Gate(), arrived=2)},
        ["in time", "late"],
    ),
    "late is who would be so once the worker has done what it has": (
        {"late": Request(Gate(), arrived=1, start_by=NOW + 2), "in time": Request(Gate(), arrived=2)},
        ["in time", "late"],
    ),
    "an interactive one that is late before a batch": (
        {"batch": Request(Gate(), batch=True), "late": Request(Gate(), arrived=2, start_by=NOW - 1)},
        ["late", "batch"],
    ),
    "what was begun first of its class": (
        {
            "a": Request(Gate(), batch=True, arrived=1),
            "begun": Request(Gate(), batch=True, arrived=2, first=True),
            "interactive": Request(Gate(), arrived=3),
        },
        ["interactive", "begun", "a"],
    ),
}


@pytest.mark.parametrize(("requests", "want"), ORDERS.values(), ids=ORDERS.keys())
async def test_the_order_is(line: Line, gate: Gate, requests: dict[str, Request], want: list[str]) -> None:
    went = list[str]()

    async def run(name: str, request: Request) -> None:
        request.gate = gate
        assert await line.wait(request, 60)
        went.append(name)

    tasks = [asyncio.create_task(run(name, request)) for name, request in requests.items()]
    await until(lambda: len(line) == len(requests))
    gate.seconds = 100.0
    line.freed()
    await asyncio.gather(*tasks)
    assert went == want
    assert len(line) == 0


async def test_only_those_for_whom_there_is_room_go(line: Line, gate: Gate) -> None:
    """What one takes is counted before it is on its way."""
    tasks = [asyncio.create_task(line.wait(Request(gate, arrived=i), 60)) for i in range(5)]
    await until(lambda: len(line) == 5)
    gate.seconds = 2.0
    line.freed()
    await until(lambda: len(line) < 5)
    assert len(line) == 3
    await asyncio.gather(*tasks[:2])
    assert gate.loads[WORKER.uid].work_left(NOW) == 0.0, "what was booked is given back to those that go"
    for task in tasks:
        task.cancel()
    await until(lambda: not len(line))


async def test_one_that_can_go_is_not_stuck_behind_one_that_cannot(line: Line, gate: Gate) -> None:
    gate.seconds = 100.0
    stuck = asyncio.create_task(line.wait(Request(gate, lane="cold", placed=lambda _: Wait.FULL), 60))
    await until(lambda: len(line) == 1)
    assert await line.wait(Request(gate, lane="hot", arrived=NOW + 1), 60)
    stuck.cancel()


async def test_those_far_back_go_where_those_in_front_would_rather_not(line: Line, gate: Gate) -> None:
    """A load of 2.5 s is sooner than three requests of 1 s that go before."""
    gate.seconds = 100.0

    def placed(waiting: float) -> Choice | Wait:
        return Wait.RATHER if waiting < 2.5 else gate.place(1.0)

    requests = [Request(gate, arrived=i, placed=placed) for i in range(4)]
    tasks = [asyncio.create_task(line.wait(request, 60)) for request in requests]
    assert await tasks[3]
    assert len(line) == 3
    for task in tasks[:3]:
        task.cancel()


async def test_a_wait_has_an_end(line: Line, gate: Gate) -> None:
    with pytest.raises(TimeoutError):
        await line.wait(Request(gate), 0.01)
    assert len(line) == 0


async def test_the_line_is_bounded(gate: Gate) -> None:
    line = Line(1, gate.loads, lambda: gate.now)
    waits = asyncio.create_task(line.wait(Request(gate), 60))
    await until(lambda: len(line) == 1)
    with pytest.raises(LineFullError):
        await line.wait(Request(gate), 60)
    gate.seconds = 1.0
    with pytest.raises(LineFullError):
        await line.wait(Request(gate), 60)
    assert await line.wait(Request(gate, lane="nobody waits here"), 60), "it need not wait"
    waits.cancel()
    await until(lambda: not len(line))
    line.close()


async def test_a_request_that_leaves_as_it_is_sent_takes_no_room(line: Line, gate: Gate) -> None:
    request = Request(gate, placed=lambda _: gate.place(1.0, load_seconds=9.0))
    task = asyncio.create_task(line.wait(request, 60))
    await until(lambda: len(line) == 1)
    gate.seconds = 1.0
    line.freed()
    await asyncio.sleep(0)
    assert gate.loads[WORKER.uid].work_left(NOW) > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    load = gate.loads[WORKER.uid]
    assert (load.work_left(NOW), load.inflight, load.load_remaining("shapes-1", NOW)) == (0.0, 0, None)


async def test_each_worker_that_matters_is_known_once(line: Line, gate: Gate) -> None:
    lanes = ("a", "a", "b")
    tasks = [
        asyncio.create_task(line.wait(Request(gate, lane=lane, batch=lane == "b"), 60)) for lane in lanes
    ]
    await until(lambda: len(line) == 3)
    assert line.workers() == [WORKER]
    for task in tasks:
        task.cancel()
    await until(lambda: not len(line))
    assert line.workers() == []


async def test_a_change_of_the_cluster_ends_the_wait_of_those_that_it_concerns(
    line: Line, gate: Gate
) -> None:
    gone = asyncio.create_task(line.wait(Request(gate, seen=lambda: False), 60))
    stays = asyncio.create_task(line.wait(Request(gate), 60))
    await until(lambda: len(line) == 2)
    line.changed()
    assert await gone is None
    assert len(line) == 1
    stays.cancel()


async def test_who_may_go_elsewhere_after_a_change_is_held_up_by_nobody_of_its_former_lane(
    line: Line, gate: Gate
) -> None:
    stuck = asyncio.create_task(line.wait(Request(gate, placed=lambda _: Wait.FULL), 60))
    request = Request(gate, arrived=NOW + 1, placed=lambda _: Wait.FULL)

    def look() -> bool:
        request.lane, request.placed, gate.seconds = "another", None, 1.0
        return True

    request.seen = look
    moved = asyncio.create_task(line.wait(request, 60))
    await until(lambda: len(line) == 2)
    line.changed()
    assert await moved
    assert len(line) == 1
    stuck.cancel()


async def test_time_alone_makes_room(line: Line, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "TICK_SECONDS", 0.001)
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1

    line.on_tick = ask
    task = asyncio.create_task(line.wait(Request(gate), 60))
    await until(lambda: asked > 2)
    assert len(line) == 1
    gate.seconds = 1.0
    assert await task
    seen = asked
    await asyncio.sleep(0.01)
    assert asked <= seen + 1, "nothing waits: nobody is asked"

"""The work queue, under a clock that the test owns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from imagefleet_operator.queue import WorkQueue, backoff


class Work:
    """What the queue runs: notes its calls, waits at a gate, and answers as told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: Callable[[str], float | None] = lambda key: None

    async def __call__(self, key: str) -> float | None:
        assert key not in self.running, "a key is worked on by one worker at a time"
        self.calls.append(key)
        self.running.append(key)
        try:
            await self.gate.wait()
            return self.answer(key)
        finally:
            self.running.remove(key)


class Clock:
    """Time that stands still until the test moves it. ``looks``: how often someone asked for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


@asynccontextmanager
async def started(
    work: Callable[[str], Awaitable[float | None]], clock: Clock, n: int = 2
) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue("test", work, concurrency=n, clock=clock, jitter=lambda: 1.0)
    queue.start()
    try:
        yield queue
    finally:
        await queue.stop(0)


async def turn() -> None:
    """Let everything that can run run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_key_wakes_no_more_workers_up_however_many_are_idle() -> None:
    looks = []
    for idle in (2, 64):
        clock, work = Clock(), Work()
        async with started(work, clock, idle) as queue:
            queue.add("later", 100.0)
            await turn()
            before = clock.looks
            queue.add("a")
            await turn()
            looks.append(clock.looks - before)
        assert work.calls == ["a"]
    assert looks[0] == looks[1]


@pytest.mark.parametrize(
    ("failures", "jitter", "want"),
    [(1, 1.0, 0.5), (3, 0.0, 1.0), (3, 1.0, 2.0), (50, 1.0, 120.0), (9, 1.0, 120.0)],
)
def test_backoff(failures: int, jitter: float, want: float) -> None:
    assert backoff(failures, jitter) == want


async def test_a_key_that_waits_is_worked_on_once() -> None:
    work, clock = Work(), Clock()
    queue: WorkQueue[str] = WorkQueue("test", work, concurrency=1, clock=clock)
    for _ in range(100):
        queue.add("a")
    queue.start()
    await turn()
    assert work.calls == ["a"]
    await queue.stop(0)


async def test_a_key_that_is_added_while_it_runs_runs_again_afterwards() -> None:
    work = Work()
    work.gate.clear()
    async with started(work, Clock()) as queue:
        queue.add("a")
        await turn()
        queue.add("a")
        queue.add("a")
        await turn()
        assert work.calls == ["a"]
        work.gate.set()
        await turn()
        assert work.calls == ["a", "a"]


async def test_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    work = Work()
    work.gate.clear()
    async with started(work, Clock(), n=2) as queue:
        for key in "abc":
            queue.add(key)
        await turn()
        assert work.running == ["a", "b"]
        assert queue.depth() == 1
        work.gate.set()
        await turn()
        assert work.calls == ["a", "b", "c"]
        assert queue.depth() == 0


async def test_a_busy_key_holds_up_no_other() -> None:
    work = Work()
    work.gate.clear()
    async with started(work, Clock(), n=2) as queue:
        queue.add("a")
        await turn()
        queue.add("a")
        queue.add("b")
        await turn()
        assert work.running == ["a", "b"]
        work.gate.set()


async def test_a_delayed_key_waits_for_its_time() -> None:
    work, clock = Work(), Clock()
    async with started(work, clock) as queue:
        queue.add("a", delay=10)
        await turn()
        assert work.calls == []
        clock.now = 10
        queue.add("b")
        await turn()
        assert sorted(work.calls) == ["a", "b"]


async def test_the_earlier_of_two_times_holds() -> None:
    work, clock = Work(), Clock()
    async with started(work, clock) as queue:
        queue.add("a", delay=100)
        queue.add("a", delay=0)
        queue.add("a", delay=50)
        await turn()
        assert work.calls == ["a"]
        clock.now = 200
        queue.add("b")
        await turn()
        assert work.calls == ["a", "b"]


async def test_work_says_when_it_is_due_again() -> None:
    work, clock = Work(), Clock()
    work.answer = lambda key: 5.0 if len(work.calls) == 1 else None
    async with started(work, clock) as queue:
        queue.add("a")
        await turn()
        clock.now = 5
        queue.add("b")
        await turn()
        assert sorted(work.calls) == ["a", "a", "b"]


async def test_a_failing_key_waits_longer_each_time_and_is_forgiven() -> None:
    work, clock = Work(), Clock()

    def fail(key: str) -> float | None:
        if len(work.calls) != 4:
            raise RuntimeError("no")
        return 10.0

    async def calls_after(seconds: float) -> int:
        clock.now += seconds
        queue.add(f"nudge at {clock.now}", delay=1000)
        await turn()
        return len(work.calls)

    work.answer = fail
    async with started(work, clock) as queue:
        queue.add("a")
        for seconds, calls in ((0, 1), (0.5, 2), (0.9, 2), (0.1, 3), (2, 4), (10, 5), (0.5, 6)):
            assert await calls_after(seconds) == calls
        assert queue.alive()


async def test_the_oldest_key_tells_how_long_it_waits_or_runs() -> None:
    work, clock = Work(), Clock()
    work.gate.clear()
    async with started(work, clock, n=1) as queue:
        assert queue.oldest() == 0
        queue.add("a")
        await turn()
        clock.now = 7
        queue.add("b")
        clock.now = 9
        assert queue.oldest() == 9
        work.gate.set()
        await turn()
        assert queue.oldest() == 0


async def test_a_worker_that_ended_is_noticed() -> None:
    async def broken(key: str) -> float | None:
        raise asyncio.CancelledError

    async with started(broken, Clock()) as queue:
        assert queue.alive()
        queue.add("a")
        await turn()
        assert not queue.alive()


def test_a_queue_that_was_not_started_is_well() -> None:
    assert WorkQueue("test", Work(), concurrency=1, clock=Clock()).alive()


async def test_how_long_a_due_key_waited_is_told() -> None:
    work, clock, waited = Work(), Clock(), list[float]()
    queue: WorkQueue[str] = WorkQueue("test", work, concurrency=1, clock=clock, lag=waited.append)
    queue.add("a", 2)
    queue.add("b", 5)
    clock.now += 6
    queue.start()
    await turn()
    assert (work.calls, waited) == (["a", "b"], [4, 1])
    await queue.stop(0)


async def test_stopping_lets_running_work_end_and_starts_no_more() -> None:
    work = Work()
    work.gate.clear()
    queue: WorkQueue[str] = WorkQueue("test", work, concurrency=1, clock=Clock())
    queue.start()
    queue.add("a")
    await turn()
    queue.add("b")
    stopping = asyncio.create_task(queue.stop(60))
    await turn()
    assert not stopping.done()
    queue.add("c")
    work.gate.set()
    await stopping
    assert work.calls == ["a"]

"""A request's stay on a worker, and how it is cut short."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from imagefleet_runtime.gateway.demand import Demand
from imagefleet_runtime.gateway.errors import ApiError, server_error
from imagefleet_runtime.gateway.events import Delivered
from imagefleet_runtime.gateway.loads import WorkerLoad
from imagefleet_runtime.gateway.relay import Relay, SuspendedError, Visit
from imagefleet_runtime.gateway.routing import Choice
from imagefleet_runtime.gateway.snapshot import Share
from imagefleet_runtime.gateway.trace import Trace
from imagefleet_runtime.gateway.upstream import Stream

from tests.unit.gateway.builders import COMPLETED, PARTIAL, make_model, make_worker, until

SUSPENDED = server_error(503, "model_suspended", "Ask them.")


class Transport(asyncio.Transport):
    """A connection that tells its stream when it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.on_abort: Callable[[], None] = lambda: None

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.on_abort)

    def is_closing(self) -> bool:
        return False


def make_visit(under_way: set[Visit], work_seconds: float = 10.0) -> tuple[Visit, WorkerLoad, Demand]:
    view, worker, load, demand = make_model(), make_worker(), WorkerLoad(), Demand()
    share = Share("art", "thumbs", "shapes-1", 100.0, view, (worker,))
    choice = Choice(share, view, worker, work_seconds, 0.0)
    trace = Trace("r", 0.0, delivered=Delivered())
    return Visit(choice, load, demand, trace, lambda: 0.0, under_way), load, demand


async def stay(visit: Visit) -> str:
    with visit:
        await asyncio.Event().wait()
    raise AssertionError


async def test_a_stopped_visit_says_so_and_leaves_nothing_behind() -> None:
    under_way: set[Visit] = set()
    visit, load, demand = make_visit(under_way)
    waiting = asyncio.create_task(stay(visit))
    await until(lambda: under_way)
    visit.stop(SUSPENDED)
    with pytest.raises(SuspendedError):
        await waiting
    assert waiting.cancelling() == 0
    assert (len(under_way), load.inflight, load.work_left(0.0), demand.running) == (0, 0, 0.0, 0)


async def test_a_caller_that_goes_away_in_the_same_moment_is_gone() -> None:
    under_way: set[Visit] = set()
    visit, _, _ = make_visit(under_way)
    waiting = asyncio.create_task(stay(visit))
    await until(lambda: under_way)
    visit.stop(SUSPENDED)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not under_way


async def test_a_visit_is_stopped_once() -> None:
    under_way: set[Visit] = set()
    visit, _, _ = make_visit(under_way)
    waiting = asyncio.create_task(stay(visit))
    await until(lambda: under_way)
    visit.stop(SUSPENDED)
    visit.stop(SUSPENDED)
    with pytest.raises(SuspendedError):
        await waiting


class Streaming:
    """A stream that has begun, and what its reader got of it."""

    def __init__(self, pictures: int = 2) -> None:
        self.under_way: set[Visit] = set()
        self.visit, self.load, _ = make_visit(self.under_way)
        transport = Transport()
        self.stream = Stream(200, {b"x-imagefleet-work-seconds": b"10"}, transport)
        transport.on_abort = lambda: self.stream.broke("cut")
        self.relay = Relay(self.visit, self.stream, pictures, asyncio.get_running_loop().time() + 60)
        self.got: list[bytes] = []

    async def begin(self, *events: bytes) -> None:
        with self.visit:
            self.stream.feed(b"".join(events))
            await self.relay.start()

    async def read(self, then: Callable[[], None] = lambda: None) -> None:
        """Read to the end; `then` is called after the first event."""
        with contextlib.closing(self.relay):
            async for event in self.relay.events():
                self.got.append(event)
                if len(self.got) == 1:
                    then()


def failure(streaming: Streaming) -> ApiError | None:
    return streaming.relay.failure


async def test_a_stopped_stream_sends_nothing_of_what_has_arrived() -> None:
    streaming = Streaming()
    await streaming.begin(PARTIAL, COMPLETED)
    await streaming.read(then=lambda: streaming.visit.stop(SUSPENDED))
    assert streaming.got[0] == PARTIAL
    assert streaming.got[1].startswith(b"event: error\n")
    assert len(streaming.got) == 2
    assert failure(streaming) is SUSPENDED
    assert not streaming.under_way


async def test_a_stream_that_is_stopped_before_its_first_event_is_read() -> None:
    streaming = Streaming()
    await streaming.begin(PARTIAL)
    streaming.visit.stop(SUSPENDED)
    await streaming.read()
    assert [event[:12] for event in streaming.got] == [b"event: error"]


async def test_a_stream_that_waits_for_its_worker_ends() -> None:
    streaming = Streaming()
    await streaming.begin(PARTIAL)
    reading = asyncio.create_task(streaming.read())
    await until(lambda: streaming.got)
    streaming.visit.stop(SUSPENDED)
    await reading
    assert failure(streaming) is SUSPENDED


async def test_a_stopped_worker_is_no_suspect_and_has_nothing_left_to_do() -> None:
    streaming = Streaming()
    await streaming.begin(PARTIAL)
    reading = asyncio.create_task(streaming.read())
    await until(lambda: streaming.got)
    streaming.visit.stop(SUSPENDED)
    await reading
    assert streaming.load.penalty(0.0) == 0.0
    assert streaming.load.work_left(0.0) == 0.0


async def test_a_stream_that_is_complete_is_not_spoilt() -> None:
    streaming = Streaming(pictures=1)
    await streaming.begin(COMPLETED)
    await streaming.read(then=lambda: streaming.visit.stop(SUSPENDED))
    assert streaming.got == [COMPLETED]
    assert failure(streaming) is None

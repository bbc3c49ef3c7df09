"""One request on one worker: what it adds to the worker's load and to the demand, and its stream of events on
the way to the caller.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import TracebackType

import msgspec

from .demand import Demand
from .errors import SUSPENDED, ApiError, server_error
from .events import (
    EventTooLargeError,
    Splitter,
    checkpoint_data,
    error_code,
    error_event,
    is_completed,
)
from .figures import read_figures
from .loads import WorkerLoad
from .resume import Interruption, read_checkpoint
from .routing import Choice
from .spending import Account
from .trace import Trace
from .upstream import ConnectionBrokenError, Reply, Stream


class SuspendedError(Exception):
    """The ImageModel on whose worker a request is was suspended."""


class Visit:
    """A request's stay on a worker: entered before it is sent, left when its reply or its stream has ended."""

    __slots__ = (
        "_account",
        "_clock",
        "_demand",
        "_drawn",
        "_freed",
        "_heard_at",
        "_load",
        "_settled",
        "_start",
        "_stopped",
        "_task",
        "_trace",
        "_under_way",
        "choice",
        "name",
        "relay",
    )

    def __init__(
        self,
        choice: Choice,
        load: WorkerLoad,
        demand: Demand,
        trace: Trace,
        clock: Callable[[], float],
        under_way: "set[Visit] | None" = None,
        freed: Callable[[], object] = lambda: None,
        account: Account | None = None,
    ) -> None:
        """`under_way`: where the visit is found while it lasts, for whoever must stop it.

        `freed`: called at its end. `account`: where what is drawn is counted.
        """
        self._account = account
        self._drawn: float | None = None
        """Seconds of the device, as far as the worker has said."""
        self._freed = freed
        self.choice = choice
        self.name = trace.name
        self._load = load
        self._demand = demand
        self._trace = trace
        self._clock = clock
        self._start = clock()
        self._heard_at: float | None = None
        self._settled = False
        self._under_way = under_way
        self._task: asyncio.Task[object] | None = None
        self._stopped = False
        self.relay: Relay | None = None
        """With a stream, the stay outlasts its `with` block, until `end`."""

    def __enter__(self) -> "Visit":
        choice = self.choice
        if self._under_way is not None:
            self._under_way.add(self)
            self._task = asyncio.current_task()
        self._demand.running += 1
        if self._account is not None:
            self._account.begin(choice.work_seconds)
        self._load.sent(choice.share.model, choice.work_seconds, choice.load_seconds, self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.relay is None:
            self.end()
        if not self._stopped or self._task is None or not isinstance(error, asyncio.CancelledError):
            return
        # Where the caller went away in the same moment, that is what ends the request.
        if self._task.uncancel() == 0:
            raise SuspendedError from None

    def stop(self, error: ApiError) -> None:
        """The model is suspended: end the request on the worker. Who waits for the reply gets a SuspendedError, the
        reader of a stream `error`.
        """
        if self.relay is not None:
            self.relay.stop(error)
        elif self._task is not None and not self._stopped:
            self._stopped = True
            self._task.cancel()

    @property
    def waited(self) -> float:
        """Seconds from the request's arrival until it was sent here."""
        return self._start - self._trace.arrived

    def hear(self, reply: Reply | Stream) -> None:
        """Take over what the worker says of its load."""
        now, model = self._clock(), self.choice.share.model
        self._heard_at = now
        self._load.set_rate(model, reply.header(b"x-imagefleet-rate"))
        reported = self._load.report(
            reply.header(b"x-imagefleet-work-seconds"), now, reply.header(b"x-imagefleet-ready-seconds")
        )
        self._load.hold(reply.header(b"x-imagefleet-models"), reply.header(b"x-imagefleet-room-seconds"), now)
        if isinstance(reply, Reply):
            figures = read_figures(reply)
            # A worker that draws without a word has drawn what was to be expected; one that refuses, nothing.
            told = figures.run_seconds
            self._drawn = told if told is not None else self.choice.work_seconds * (reply.status == 200)
            if self._trace.interruptions:
                # What the others took for it is not in it.
                figures = msgspec.structs.replace(figures, run_seconds=None)
            self._trace.worker_figures = figures
        served = reply.status == 200
        if served:
            self._load.loading(model, 0.0, now)
        self._settled = reported or served

    def passes(self, event: bytes) -> bool:
        """Whether the caller does not have this event of its stream yet."""
        delivered = self._trace.delivered
        assert delivered is not None
        if not delivered.passes(event):
            return False
        self._trace.pictures = delivered.pictures
        return True

    def suspect(self) -> None:
        """The connection to the worker broke."""
        self._load.suspect(self._clock())

    def end(self, undone: bool = False) -> None:
        """The work of a request that was not served is undone, and of a stream that was cut, what was left."""
        now = self._clock()
        if self._under_way is not None:
            self._under_way.discard(self)
        self._demand.running -= 1
        self._trace.worker_seconds += now - self._start
        choice, left = self.choice, 0.0
        if self._account is not None:
            self._account.end(choice.work_seconds, self._worth(now - self._start, undone))
        if not self._settled:
            left = choice.work_seconds
        elif undone and self._heard_at is not None:
            left = max(0.0, choice.work_seconds - (now - self._heard_at))
        self._load.ended(choice.share.model, choice.work_seconds, choice.load_seconds, left, now)
        self._freed()

    def _worth(self, seconds: float, undone: bool) -> float:
        """What the stay of so many seconds has cost: a stream that went to its end what was expected, one that was cut
        off, like a request without a reply, no more than its time."""
        if self._drawn is not None:
            return self._drawn
        expected = self.choice.work_seconds
        return expected if self.relay is not None and not undone else min(expected, seconds)


class Relay:
    """A worker's stream on its way to the caller, event by event, until `close`."""

    def __init__(self, visit: Visit, stream: Stream, pictures: int, deadline: float) -> None:
        """`pictures`: how many are to be completed. `deadline`: in the event loop's time."""
        self.failure: ApiError | None = None
        """How the stream failed after its first event, as far as it is known."""
        self.interruption: Interruption | None = None
        """The worker gave the request up: another one goes on."""
        self._visit = visit
        self._stream = stream
        self._missing = pictures
        self._deadline = deadline
        self._splitter = Splitter()
        self._events: list[bytes] = []
        self._stopped: ApiError | None = None

    def close(self) -> None:
        """End what is left of it on the worker."""
        self._stream.close()
        self._visit.end(undone=not self._over or self._stopped is not None)

    @property
    def choice(self) -> Choice:
        return self._visit.choice

    @property
    def _over(self) -> bool:
        return self._missing <= 0 or self.failure is not None

    async def start(self) -> None:
        """Wait for the first event. From then on the stay on the worker lasts as long as the stream.

        Raises ConnectionBrokenError and EventTooLargeError.
        """
        self._events = await self._next()
        if not self._events:
            raise ConnectionBrokenError("the stream ended before its first event")
        self._visit.hear(self._stream)
        self._visit.relay = self

    def stop(self, error: ApiError) -> None:
        """End the request on the worker. `error` is the last that the caller gets."""
        self._stopped = error
        self._stream.close()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Whole events as they arrive. Where the worker fails, the last one is an error that says so."""
        while self._events:
            for event in self._events:
                if self._stopped is not None:
                    break
                data = checkpoint_data(event)
                if data is not None:
                    self.interruption = read_checkpoint(data)
                    return
                if self._visit.passes(event):
                    self._note(event)
                    yield event
            self._events = []
            failure = self._stopped or await self._go_on()
            if failure is not None and not self._over:
                self.failure = failure
                yield error_event(failure)

    async def _go_on(self) -> ApiError | None:
        """Wait for more events; none at the end. How the stream failed, where it did."""
        worker = self._visit.choice.worker.pod
        try:
            async with asyncio.timeout_at(self._deadline):
                self._events = await self._next()
        except ConnectionBrokenError:
            if self._stopped is None:
                self._visit.suspect()
            return self._stopped or connection_broke(worker)
        except TimeoutError:
            return server_error(504, "worker_timeout", f"Worker '{worker}' did not finish in time.")
        except EventTooLargeError:
            return server_error(502, "worker_error", f"Worker '{worker}' sent an event without an end.")
        if self._events:
            return None
        return server_error(502, "worker_error", f"Worker '{worker}' ended before it had drawn everything.")

    async def _next(self) -> list[bytes]:
        """The next whole events, at least one; none at the end."""
        events = list[bytes]()
        while not events and (data := await self._stream.read()):
            events = self._splitter.feed(data)
        return events

    def _note(self, event: bytes) -> None:
        if is_completed(event):
            self._missing -= 1
            return
        code = error_code(event)
        if code is not None:
            status = 503 if code == SUSPENDED else 500
            self.failure = server_error(
                status, code or "generation_failed", "The worker said so in its stream."
            )


def connection_broke(worker: str) -> ApiError:
    return server_error(
        502, "worker_lost", f"The connection to worker '{worker}' broke. The request can be sent again."
    )

"""One request on one worker: what it adds to the worker's load and to the demand, and its stream of events on
the way to the caller.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from .demand import Demand
from .errors import SUSPENDED, ApiError, server_error
from .events import EventTooLargeError, Splitter, error_code, error_event, is_completed
from .figures import NO_FIGURES, Name, WorkerFigures, read_figures
from .loads import WorkerLoad
from .resources import NO_KEY, Key, Worker
from .routing import Choice
from .upstream import ConnectionBrokenError, Reply, Stream


@dataclass(slots=True)
class Trace:
    """What is known of a request: for its reply's headers, its log line and its metrics."""

    request_id: str
    start: float
    """When its head arrived."""
    tracing: tuple[tuple[bytes, bytes], ...] = ()
    """W3C Trace Context headers, handed on to the worker."""
    headers: Sequence[tuple[bytes, bytes]] = field(default=(), repr=False)
    """All that the caller sent, names in lower case."""
    key: Key = NO_KEY
    name: str = ""
    """The entry of the pool's models that `key` is of."""
    seed: int | None = None
    worker: str = ""
    worker_code: str = ""
    """The error code of a worker's reply that was passed on."""
    attempts: int = 0
    arrived: float = 0.0
    """When it was complete: from then on it waits."""
    began: bool = False
    """A worker began it."""
    held_seconds: float = 0.0
    worker_seconds: float = 0.0
    tried: list[Worker] = field(default_factory=list)
    breaks: int = 0
    retry_after: list[int] = field(default_factory=list)
    """Seconds, of each worker that was full or could not load the model."""
    failure: ApiError | None = None
    """How the request ends if no other worker can be tried; None: it waits for one."""
    hold_until: float | None = None
    """Set when it is first held."""
    units: float = 0.0
    """Megapixel-steps."""
    pictures: int = 0
    """Those that the caller gets, of a stream as far as it went."""
    timed: bool = True
    """Its time is the fleet's doing: not a stream's, which its reader sets, nor a batch's, which may wait."""
    worker_figures: WorkerFigures = NO_FIGURES
    repeated: bool = False
    """The caller gets a reply that was drawn for an earlier request."""

    def repeat(self, key: Key, pictures: int) -> None:
        """The reply is one that `key` drew earlier."""
        self.key, self.pictures, self.repeated = key, pictures, True

    @property
    def entry(self) -> Name:
        namespace, pool, _ = self.key
        return namespace, pool, self.name


class SuspendedError(Exception):
    """The ImageModel on whose worker a request is was suspended."""


class Visit:
    """A request's stay on a worker: entered before it is sent, left when its reply or its stream has ended."""

    __slots__ = (
        "_clock",
        "_demand",
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
    ) -> None:
        """`under_way`: where the visit is found while it lasts, for whoever must stop it.

        `freed`: called at its end.
        """
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
        if isinstance(reply, Reply):
            self._trace.worker_figures = read_figures(reply)
        served = reply.status == 200
        if served:
            self._load.loading(model, 0.0, now)
        self._settled = reported or served

    def completed(self) -> None:
        """A picture of a stream was drawn."""
        self._trace.pictures += 1

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
        if not self._settled:
            left = choice.work_seconds
        elif undone and self._heard_at is not None:
            left = max(0.0, choice.work_seconds - (now - self._heard_at))
        self._load.ended(choice.share.model, choice.work_seconds, choice.load_seconds, left, now)
        self._freed()


class Relay:
    """A worker's stream on its way to the caller, event by event. Leaving its `with` block ends it."""

    def __init__(self, visit: Visit, stream: Stream, pictures: int, deadline: float) -> None:
        """`pictures`: how many are to be completed. `deadline`: in the event loop's time."""
        self.failure: ApiError | None = None
        """How the stream failed after its first event, as far as it is known."""
        self._visit = visit
        self._stream = stream
        self._missing = pictures
        self._deadline = deadline
        self._splitter = Splitter()
        self._events: list[bytes] = []
        self._stopped: ApiError | None = None

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
        self._visit.end(undone=not self._over or self._stopped is not None)

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
            self._visit.completed()
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

"""What is known of a request under way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import ApiError
from .events import Delivered
from .figures import NO_FIGURES, Name, WorkerFigures
from .resources import NO_KEY, Key, Worker
from .resume import MAX_INTERRUPTIONS, Checkpoint, Interruption, gave_up


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
    degraded: bool = False
    """A budget made it less than the caller asked for."""
    interruptions: int = 0
    uncounted: int = 0
    """Attempts that do not count: workers that gave the request up, or could not use the checkpoint of another."""
    resuming: bool = False
    """It was given up, and no other worker has it yet."""
    given_up_by: Worker | None = None
    given_up_at: float = 0.0
    checkpoint: Checkpoint | None = None
    delivered: Delivered | None = None
    """What the caller has of its stream; None before it has begun."""

    def interrupt(self, worker: Worker, found: Interruption, now: float) -> None:
        """A worker gave the request up: it waits like one that has just come. Raises ApiError beyond the bound."""
        self.interruptions += 1
        self.uncounted += 1
        self.resuming = True
        self.given_up_by, self.given_up_at = worker, now
        self.tried, self.failure, self.hold_until = [], None, None
        if self.checkpoint is not None:
            self.checkpoint.keep(self.key[2], found.checkpoint)
        if self.interruptions > MAX_INTERRUPTIONS:
            raise gave_up()

    def repeat(self, key: Key, pictures: int) -> None:
        """The reply is one that `key` drew earlier."""
        self.key, self.pictures, self.repeated = key, pictures, True

    @property
    def entry(self) -> Name:
        namespace, pool, _ = self.key
        return namespace, pool, self.name

"""Requests that wait for the accelerator or are being drawn, and what they cost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.messages import Checkpoint, Draw, Drawn, Phase
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.scheduling import PATIENCE, Key, Priority


@dataclass(frozen=True)
class Outcome:
    """A drawn request: for each picture its encoded bytes and the phases of its drawing; ``run_seconds`` of the job."""

    images: tuple[bytes, ...]
    run_seconds: float
    phases: tuple[tuple[Phase, ...], ...]


@dataclass(frozen=True)
class Preview:
    """Partial picture ``index`` of picture ``picture_index``, encoded."""

    picture_index: int
    index: int
    image: bytes


@dataclass(frozen=True)
class Picture:
    """Picture ``picture_index`` is done; ``image`` is encoded."""

    picture_index: int
    image: bytes


@dataclass(eq=False)
class Part:
    """One picture of a request, on its way."""

    job: Job
    index: int
    order: Draw
    units: float  # megapixel-steps
    done: float = 0.0  # 0 to 1
    done_before: float = 0.0  # as it was when it came here: another worker was interrupted then
    steps_before: int = 0  # the same, in steps
    id: int | None = None  # while an engine draws it, its name there
    heard: float = 0.0  # when the engine last spoke of it
    leaving: bool = False  # cancelled, and not ended yet
    pausing: bool = False  # was asked to wait, and may be at a step still
    paused: bool = False  # waits in its engine until it may go on
    largest_batch: int = 1  # that it shared a step with
    shared_seconds: float = 0.0  # its share of the steps so far
    alone_seconds: float = 0.0  # what these steps would have taken without company
    drawn: Drawn | None = None
    interrupted: Checkpoint | None = None  # where it was, if it was interrupted

    @property
    def pending(self) -> bool:
        ended = self.drawn is not None or self.interrupted is not None
        return not ended and (self.id is None or (self.paused and not self.leaving))

    @property
    def on_device(self) -> bool:
        """Whether it takes part in the engine's steps, for all that is known."""
        return self.id is not None and not self.paused

    @property
    def active(self) -> bool:
        """Whether it is to take part in the next one."""
        return self.on_device and not self.leaving and not self.pausing

    @property
    def work_seconds(self) -> float:
        """Seconds of the accelerator left, alone on it; 0 while nobody knows the model's rate."""
        rate = self.job.model.known_rate
        return 0.0 if rate is None or self.drawn else rate * self.units * (1.0 - self.done)

    @property
    def run_seconds(self) -> float:
        """Seconds of the device so far, as if it had it for itself: its share, that of steps times what its company
        gained.

        Worked example: 0.3 s in the text encoder and the VAE, and 1.2 s as its share of steps of two, each of which
        takes 0.12 s instead of 0.1 s: 0.3 + 1.2 x 0.1 / 0.06 = 2.3 s.
        """
        if self.drawn is None:
            return self.alone_seconds
        gain = self.alone_seconds / self.shared_seconds if self.shared_seconds > 0 else 1.0
        return self.drawn.work_seconds + self.drawn.shared_seconds * (gain - 1)

    @property
    def key(self) -> Key:
        order = self.order
        adapters = tuple(sorted((adapter.name, adapter.scale) for adapter in order.adapters))
        return Key(self.job.model.name, order.width, order.height, adapters)


@dataclass(eq=False)
class Job:
    """One admitted request. Times are the loop's monotonic seconds."""

    request_id: str
    body: GenerateBody
    drawings: tuple[Draw, ...]  # at least one; all of the same size and steps
    units: float  # megapixel-steps of all drawings
    model: Model
    arrived: float
    priority: Priority
    deadline: float  # by when it is wanted; decides only on the order
    result: asyncio.Future[Outcome]
    events: asyncio.Queue[Preview | Picture] = field(
        default_factory=asyncio.Queue
    )  # filled for streams alone
    started: float | None = None  # when its first picture was begun
    parts: list[Part] = field(init=False)

    def __post_init__(self) -> None:
        units = self.units / len(self.drawings)
        self.parts = [Part(self, index, draw, units) for index, draw in enumerate(self.drawings)]

    @property
    def key(self) -> Key:
        return self.parts[0].key

    @property
    def claimed(self) -> float:
        """When it lays claim to room for its model: when it came, or, of class batch, once it counts as interactive."""
        return self.arrived if self.priority == "interactive" else self.arrived + PATIENCE

    @property
    def work_seconds(self) -> float:
        """Seconds of the accelerator left, alone on it; 0 while nobody knows the model's rate."""
        return math.fsum(part.work_seconds for part in self.parts)

    @property
    def run_seconds(self) -> float:
        """Seconds of the device that its pictures took so far, each as if it had been drawn alone.

        So it depends neither on how long they waited nor on what was drawn beside them.
        """
        return math.fsum(part.run_seconds for part in self.parts)

    @property
    def pending(self) -> list[Part]:
        """The pictures that have not been begun, after those that wait to go on."""
        return sorted((part for part in self.parts if part.pending), key=lambda part: not part.paused)

    @property
    def running(self) -> list[Part]:
        """The pictures that an engine draws, or holds."""
        return [part for part in self.parts if part.id is not None]

    @property
    def resumed_steps(self) -> int:
        """Steps that another worker drew."""
        return sum(part.steps_before for part in self.parts)

    def tell(self, event: Preview | Picture) -> None:
        if self.body.stream:
            self.events.put_nowait(event)

    def answer(self, outcome: Outcome | ApiError) -> None:
        """Hand ``outcome`` to the one who waits for it, where someone still does."""
        if self.result.done():
            return
        if isinstance(outcome, ApiError):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)

    def queue_seconds(self, now: float) -> float:
        return (now if self.started is None else self.started) - self.arrived


class WaitingRoom:
    """Requests of which no picture has been begun; at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    @property
    def full(self) -> bool:
        return len(self._jobs) >= self.limit

    def add(self, job: Job) -> None:
        self._jobs.append(job)

    def discard(self, job: Job) -> bool:
        """Take ``job`` out; False where it does not wait (any more)."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def take_all(self, of: Callable[[Job], bool]) -> list[Job]:
        """Take out every job that matches ``of``."""
        taken = [job for job in self._jobs if of(job)]
        self._jobs = [job for job in self._jobs if not of(job)]
        return taken

    def of(self, model: Model) -> list[Job]:
        return [job for job in self._jobs if job.model is model]

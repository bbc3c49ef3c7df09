"""Requests that wait for the accelerator, and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.messages import Generate
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.policy import GenerateBody


@dataclass(frozen=True)
class Outcome:
    """A drawn request."""

    images: tuple[bytes, ...]
    run_seconds: float


@dataclass(eq=False)
class Job:
    """One admitted request. Times are the loop's monotonic seconds."""

    request_id: str
    body: GenerateBody
    drawing: Generate
    units: float  # megapixel-steps
    model: Model
    arrived: float
    result: asyncio.Future[Outcome]
    started: float | None = None
    progress: float = 0.0  # 0 to 1, by steps done

    @property
    def work_seconds(self) -> float:
        """Seconds of the accelerator left; 0 while nobody knows the model's rate."""
        rate = self.model.known_rate
        return 0.0 if rate is None else rate * self.units * (1.0 - self.progress)

    def note_progress(self, done: float) -> None:
        self.progress = done

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
    """First come, first served among the requests whose model can serve; at most ``limit`` wait."""

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

    def take(self, ready: Callable[[Job], bool]) -> Job | None:
        """Take out the first job that is ``ready``."""
        job = next(filter(ready, self._jobs), None)
        if job is not None:
            self._jobs.remove(job)
        return job

    def take_all(self, of: Callable[[Job], bool]) -> list[Job]:
        """Take out every job that matches ``of``."""
        taken = [job for job in self._jobs if of(job)]
        self._jobs = [job for job in self._jobs if not of(job)]
        return taken

    def of(self, model: Model) -> list[Job]:
        return [job for job in self._jobs if job.model is model]

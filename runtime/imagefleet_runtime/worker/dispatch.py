"""Hands pictures to the engines, one batch at a time, and hears how they end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from imagefleet_runtime.worker import calibration, deadlines, errors, messages, resuming, scheduling
from imagefleet_runtime.worker.handle import Answer
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.scheduling import Batch, Key, Speed, Task
from imagefleet_runtime.worker.waiting import Job, Outcome, Part, Picture, Preview, WaitingRoom


class Dispatcher:
    """The accelerator's work. ``memory_limit``: bytes that a model's engine may use. ``check``: raises ApiError for a
    job that must not be drawn after all. ``changed``: called when a model's last picture has ended."""

    def __init__(
        self,
        *,
        models: dict[str, Model],
        waiting: WaitingRoom,
        metrics: Metrics,
        memory_limit: Callable[[Model], int],
        check: Callable[[Job], None],
        max_request_seconds: float,
        changed: Callable[[], None],
    ) -> None:
        self._models = models
        self._waiting = waiting
        self._metrics = metrics
        self._memory_limit = memory_limit
        self._check = check
        self._max_request_seconds = max_request_seconds
        self._changed = changed
        self._jobs: list[Job] = []  # begun, and not answered
        self._parts: dict[int, Part] = {}  # being drawn
        self._key: Key | None = None  # of what is being drawn
        self._largest_batch = 0  # since the device was free
        self._measuring = False
        self._interrupting = False
        self._ids = itertools.count(1)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                self._begin_what_may()
                await self._kill_hung()
                await self._sleep()
        except Exception as error:
            for job in list(self._jobs):
                self._end(job, errors.engine("generation_failed", "the worker failed; it will restart"))
            raise RuntimeError("the drawing loop ended") from error  # /livez sees to the restart

    def wake(self) -> None:
        self._wake.set()

    async def idle(self) -> None:
        """Wait until no request is being drawn."""
        await self._idle.wait()

    def measure(self, measuring: bool) -> None:
        """While a model that is being loaded measures itself, nothing new is begun."""
        self._measuring = measuring
        self._wake.set()

    # What others ask

    @property
    def count(self) -> int:
        """Requests that were begun and are not answered."""
        return len(self._jobs)

    @property
    def jobs(self) -> Sequence[Job]:
        """The requests that were begun and are not answered."""
        return self._jobs

    def begins_at_once(self, job: Job) -> bool:
        """Whether ``job`` would not have to wait."""
        if self._measuring or not _may_begin(job):
            return False
        task, now, speeds = _task(job, job.pending), time.monotonic(), self._speeds()
        tasks = [*self._tasks(), task]
        paused = {each.id for each in scheduling.to_pause(self._running_tasks(), tasks, now, speeds)}
        staying = tuple(part.work_seconds for part in self._active() if part.id not in paused)
        batch = Batch() if paused and not staying else Batch(self._key, staying)
        return task in scheduling.choose(batch, tasks, now, speeds)

    def running(self, model: Model) -> list[Job]:
        """Requests of ``model`` that were begun and are not answered, or whose cancelled pictures have not ended."""
        leaving = {part.job for part in self._parts.values() if part.job.model is model}
        begun = [job for job in self._jobs if job.model is model]
        return begun + [job for job in leaving if job not in begun]

    def work_seconds(self, model: Model) -> float:
        """Seconds that the requests of ``model`` still take, with what batching saves."""
        jobs = [*self._waiting.of(model), *(job for job in self._jobs if job.model is model)]
        work = [(part.key, part.work_seconds) for job in jobs for part in job.parts if part.drawn is None]
        return scheduling.batched_seconds(work, self._speeds())

    def place_free_after(self) -> float | None:
        """Seconds until one of the waiting requests is begun; None where none of them can be."""
        return scheduling.place_free_after(self._batch(), self._tasks(), time.monotonic(), self._speeds())

    # Begin

    def _begin_what_may(self) -> None:
        if not self._measuring:
            self._make_way()
        refused = True
        while refused and not self._measuring:
            chosen = scheduling.choose(self._batch(), self._tasks(), time.monotonic(), self._speeds())
            jobs = {id(job): job for job in self._candidates()}
            refused = False
            for task in chosen:
                refused = not self._begin(jobs[task.id]) or refused

    def _make_way(self) -> None:
        """Put aside what is less urgent than what waits."""
        tasks = self._tasks()
        for task in scheduling.to_pause(self._running_tasks(), tasks, time.monotonic(), self._speeds()):
            part = self._parts[task.id]
            assert part.job.model.engine is not None, "it draws"
            part.pausing = True
            part.job.model.engine.pause(task.id)
            self._metrics.preempted(part.job.model.name)

    def _candidates(self) -> list[Job]:
        begun = [job for job in self._jobs if self._beginnable(job) and job.model.state is State.RESIDENT]
        return begun + [job for job in self._waiting if _may_begin(job)]

    def _beginnable(self, job: Job) -> list[Part]:
        """The pictures of ``job`` to begin or to go on with, in this order. None is begun any more where all are to be
        interrupted."""
        return [part for part in job.pending if part.paused or not self._interrupting]

    def _tasks(self) -> list[Task]:
        return [_task(job, self._beginnable(job)) for job in self._candidates()]

    def _active(self) -> list[Part]:
        return [part for part in self._parts.values() if part.active]

    def _running_tasks(self) -> list[Task]:
        """One for each picture of the batch, by its name in the engine."""
        return [
            replace(_task(part.job, [part]), id=number) for number, part in self._parts.items() if part.active
        ]

    def _batch(self) -> Batch:
        return Batch(self._key, tuple(part.work_seconds for part in self._active()))

    def _speeds(self) -> Callable[[Key], Speed]:
        """How fast pictures of a key are drawn, as of now: each is worked out once."""

        @functools.cache
        def speed(key: Key) -> Speed:
            model = self._models[key.model]
            return model.speed(key.width, key.height, self._memory_limit(model))

        return speed

    def _begin(self, job: Job) -> bool:
        """Begin one picture of ``job``, or go on with it.

        False where the job turns out to be impossible, or was refused just before.
        """
        if self._waiting.discard(job):
            try:
                self._check(job)
            except errors.ApiError as error:
                self._metrics.refused(job.model.name, error.code)
                job.answer(error)
                return False
            job.started = time.monotonic()
            self._jobs.append(job)
            self._idle.clear()
        elif job not in self._jobs:
            return False
        part, engine = self._beginnable(job)[0], job.model.engine
        assert engine is not None, "a resident model has an engine"
        part.heard = job.model.last_used = time.monotonic()
        engine.on_step = self._stepped
        if part.id is not None:
            part.paused = False
            engine.go_on(part.id)
        else:
            part.id = next(self._ids)
            self._parts[part.id] = part
            engine.draw(replace(part.order, id=part.id), lambda answer: self._answered(part, answer))
        self._key = part.key
        self._largest_batch = max(self._largest_batch, len(self._on_device()))
        return True

    def _on_device(self) -> list[Part]:
        return [part for part in self._parts.values() if part.on_device]

    # Hear

    def _stepped(self, step: messages.Step) -> None:
        parts = [self._parts[drawing] for drawing in step.done if drawing in self._parts]
        if not parts:
            return
        model, batch, now = parts[0].job.model, len(step.done), time.monotonic()
        model.steps.observe(step.width, step.height, batch, step.seconds)
        self._metrics.stepped(model.name, batch, step.seconds)
        slowdown = model.steps.undisturbed_slowdown(step.width, step.height, batch)
        for part in parts:
            assert part.id is not None, "it is being drawn"
            part.done, part.heard = step.done[part.id], now
            part.largest_batch = max(part.largest_batch, batch)
            part.shared_seconds += step.rounds * step.seconds / batch
            part.alone_seconds += step.rounds * step.seconds / slowdown

    def _answered(self, part: Part, answer: Answer) -> None:
        part.heard = time.monotonic()
        if isinstance(answer, messages.Preview):
            part.job.tell(Preview(part.index, answer.index, answer.image))
            return
        if isinstance(answer, messages.Paused):
            part.pausing, part.paused = False, True
        else:
            self._free(part)
            self._ended(part, answer)
        if not self._on_device():
            self._key, self._largest_batch = None, 0
        if not self.running(part.job.model):
            self._changed()
        self._wake.set()

    def _ended(self, part: Part, answer: Answer) -> None:
        match answer:
            case messages.Drawn():
                self._drawn(part, answer)
            case messages.Failed() if not part.leaving:
                self._failed(part, answer)
            case messages.Checkpoint():
                part.interrupted = answer
        if self._interrupting:
            self._end_interrupted(part.job)

    def _free(self, part: Part) -> None:
        assert part.id is not None, "it was being drawn"
        del self._parts[part.id]
        part.id = None
        part.pausing = part.paused = False

    def _drawn(self, part: Part, drawn: messages.Drawn) -> None:
        job, model = part.job, part.job.model
        part.drawn = drawn
        # What is fixed, such as decoding, is too much for the few steps of a picture that was resumed.
        if not part.done_before:
            model.rate = calibration.corrected(model.rate, part.run_seconds, part.units)
        model.last_used = time.monotonic()
        model.demand.add(part.run_seconds, model.last_used)
        if drawn.peak_bytes is not None:
            order = part.order
            model.footprint.observe(order.width, order.height, self._largest_batch, drawn.peak_bytes)
            model.note_peak(drawn.peak_bytes)
        self._metrics.drawn(model.name, drawn.work_seconds)
        job.tell(Picture(part.index, drawn.image))
        pictures = [other.drawn for other in job.parts if other.drawn is not None]
        if len(pictures) == len(job.parts) and job in self._jobs:
            self._complete(job, pictures)

    def _complete(self, job: Job, pictures: list[messages.Drawn]) -> None:
        now = time.monotonic()
        seconds = now - (now if job.started is None else job.started)
        images = tuple(drawn.image for drawn in pictures)
        self._metrics.completed(job.model.name, seconds, job.queue_seconds(now))
        self._end(job, Outcome(images, job.run_seconds, tuple(drawn.phases for drawn in pictures)))

    def _failed(self, part: Part, failed: messages.Failed) -> None:
        order, model = part.order, part.job.model
        if failed.code == "out_of_memory":
            batch = len(self._on_device()) + 1
            model.footprint.ran_out(order.width, order.height, batch)
            log("out_of_memory", model=model.name, size=f"{order.width}x{order.height}", batch=batch)
        self._end(part.job, errors.engine(failed.code, failed.message))

    # End

    def cancel(self, job: Job) -> None:
        """The caller went away: stop its pictures at their next step; those that were not begun never are."""
        if job in self._jobs:
            self._end(job, errors.engine("generation_failed", "the request was cancelled"))

    def stop(self, model: Model, error: errors.ApiError) -> int:
        """Answer the requests of ``model`` that were begun, and stop their pictures. How many there were."""
        jobs = [job for job in self._jobs if job.model is model]
        for job in jobs:
            self._end(job, error)
        return len(jobs)

    def interrupt(self) -> None:
        """End the requests that were begun, with checkpoints. What cannot be interrupted is drawn to its end first."""
        self._interrupting = True
        for job in list(self._jobs):
            for part in job.running:
                if part.id is not None and job.model.engine is not None:
                    job.model.engine.interrupt(part.id)
            self._end_interrupted(job)
        self._wake.set()

    def _end_interrupted(self, job: Job) -> None:
        if job in self._jobs and not job.running:
            self._metrics.interrupted(job.model.name)
            self._end(job, resuming.interrupted(job))

    def refuse(self, model: Model, error: errors.ApiError) -> None:
        """Answer the requests of ``model`` that were begun and have no engine any more."""
        for job in [job for job in self._jobs if job.model is model and not job.running]:
            self._end(job, error)

    def _end(self, job: Job, outcome: Outcome | errors.ApiError) -> None:
        """Answer ``job``, and have what is left of it stopped."""
        if job not in self._jobs:
            return
        self._jobs.remove(job)
        job.answer(outcome)
        engine = job.model.engine
        for part in job.running:
            part.leaving = True
            if engine is not None and part.id is not None:
                engine.cancel(part.id)
        if not self._jobs:
            self._idle.set()
        self._wake.set()

    # Engines that hang

    def _patience(self, part: Part) -> float:
        """Seconds that the engine may be silent about ``part``."""
        rate = part.job.model.known_rate or 0.0
        company = part.job.model.steps.slowdown(
            part.order.width, part.order.height, max(len(self._on_device()), 1)
        )
        return deadlines.silence_seconds(rate * part.units * company, self._max_request_seconds)

    async def _kill_hung(self) -> None:
        """Raises EngineStuckError."""
        now = time.monotonic()
        for part in self._on_device():
            seconds, engine = self._patience(part), part.job.model.engine
            if engine is not None and now - part.heard >= seconds:
                await engine.kill_hung(seconds)
                return

    async def _sleep(self) -> None:
        """Until something happens, or an engine has been silent for too long."""
        ends = [part.heard + self._patience(part) for part in self._on_device()]
        timeout = min(ends) - time.monotonic() if ends else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):  # not wait_for, which can lose a cancellation
                await self._wake.wait()


def _may_begin(job: Job) -> bool:
    """Whether its model is here, and does not give way to one that was asked for before."""
    return job.model.serving and job.claimed <= job.model.begins_until


def _task(job: Job, pending: list[Part]) -> Task:
    can = job.model.capabilities
    return Task(
        id=id(job),
        key=job.key,
        priority=job.priority,
        arrived=job.arrived,
        deadline=job.deadline,
        seconds=pending[0].work_seconds if pending else 0.0,
        pictures=len(pending),
        remaining=job.work_seconds,
        begun=job.started is not None,
        pausable=can is not None and can.batches,
    )

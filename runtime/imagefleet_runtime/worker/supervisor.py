"""The supervisor: what this worker holds, who waits for it, and the one request that has the accelerator."""

from __future__ import annotations

import asyncio
import math
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagefleet_runtime.worker import admission, checkpoint, errors, requests, resuming, source
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.bringup import BringUp
from imagefleet_runtime.worker.dispatch import Dispatcher
from imagefleet_runtime.worker.handle import EngineStuckError
from imagefleet_runtime.worker.host_memory import HostMemory
from imagefleet_runtime.worker.importer import Importer
from imagefleet_runtime.worker.loader import Loader
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.memory import memory_total
from imagefleet_runtime.worker.metrics import Metrics, ModelGauges
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.nvml import Nvml
from imagefleet_runtime.worker.planning import UNKNOWN_LOAD_SECONDS, State
from imagefleet_runtime.worker.policy import ModelPolicy, Policy
from imagefleet_runtime.worker.settings import Settings
from imagefleet_runtime.worker.sources import NodeCache
from imagefleet_runtime.worker.threads import in_thread
from imagefleet_runtime.worker.waiting import Job, WaitingRoom

# A seed that nobody gave; small enough to type.
RANDOM_SEEDS = 2**32
# Why requests were stopped.
CALLER_LEFT, SUSPENDED = "caller_left", "suspended"
# By when a request is wanted that does not say it, in seconds from its arrival.
DEADLINE_SECONDS = {"interactive": 30.0, "batch": 3600.0}
# The largest batch that is measured: beyond it hardly anything is gained.
MAX_BATCH = 16
# An engine's CUDA context and what fragments: memory that torch does not count as allocated.
CONTEXT_BYTES = 768 * 2**20
# Where engines keep compiled code. Not in the node cache: it is run as it is found, and others may write there.
COMPILED = Path(tempfile.gettempdir()) / "imagefleet-compiled"


class Supervisor:
    """Lives in one event loop. ``start`` before anything else, ``stop`` at the end."""

    def __init__(
        self,
        settings: Settings,
        importer: Importer,
        nvml: Nvml,
        loaded: Callable[[Model], None] = lambda _model: None,
    ) -> None:
        """``loaded`` is called with each model that was loaded."""
        self.settings = settings
        self._loaded = loaded
        self.draining = False
        self._importer = importer
        self._nvml = nvml
        self._models: dict[str, Model] = {}
        self._waiting = WaitingRoom(settings.queue_limit)
        self._tasks: list[asyncio.Task[None]] = []
        # Engines use the first visible device; a pipeline over several is not offered.
        devices = nvml.devices()
        self._memory = memory_total(devices[0].memory_total_bytes if devices else None)
        self.metrics = Metrics(settings.namespace, settings.pool, self._gauges, nvml.devices)
        self._dispatcher = Dispatcher(
            models=self._models,
            waiting=self._waiting,
            metrics=self.metrics,
            memory_limit=self._memory_limit,
            check=self._check,
            max_request_seconds=settings.max_request_seconds,
            changed=self._wake_loader,
        )
        digests = source.DigestCache()
        cache = NodeCache(
            settings.cache.folder,
            settings.cache.limit_bytes,
            settings.cache.source_limit_bytes,
            digests=digests,
        )
        bring_up = BringUp(
            importer=importer,
            torch_threads=settings.torch_threads,
            load_seconds=settings.load_seconds,
            max_batch=MAX_BATCH,
            compiled=COMPILED,
            digests=digests,
            measure=self._dispatcher.measure,
        )
        self._host_memory = HostMemory(cache, digests, self._read)
        self._loader = Loader(
            models=self._models,
            waiting=self._waiting,
            total_bytes=self._memory.bytes,
            overhead_bytes=CONTEXT_BYTES if devices else 0,
            cache=cache,
            bring_up=bring_up,
            metrics=self.metrics,
            changed=self._model_changed,
            running=self._dispatcher.running,
            gave_way=self._dispatcher.wake,
        )

    def _memory_limit(self, model: Model) -> int:
        return self._loader.memory_limit(model)

    def _wake_loader(self) -> None:
        self._loader.wake()

    async def start(self) -> None:
        """Wait for the importer, then begin to load and to draw. Raises ImporterError."""
        await in_thread(self._importer.wait_until_ready)
        self._tasks = [asyncio.create_task(self._loader.run()), asyncio.create_task(self._dispatcher.run())]
        log("ready", pool=self.settings.pool, torch_threads=self.settings.torch_threads)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._host_memory.stop()
        try:
            await self._loader.stop_engines()
        except EngineStuckError as error:
            log("engine_stuck", message=str(error))

    @property
    def ready(self) -> bool:
        return bool(self._tasks) and not self.draining

    @property
    def alive(self) -> bool:
        """False once the importer or one of the loops has ended: then only a restart of the pod helps."""
        if not self._tasks:
            return True  # still starting; a start that fails ends the process
        return self._importer.alive and not any(task.done() for task in self._tasks)

    # The policy

    def apply(self, policy: Policy) -> None:
        """Replace the policy. A model that it no longer names finishes its requests and goes."""
        previous = dict(self._models)
        self._models.clear()
        for entry in policy.models:
            model = previous.pop(entry.model, None) or Model(entry)
            self._models[entry.model] = model
            self._update(model, entry)
            if entry.suspended:
                self._suspend(model)
        for name, model in previous.items():
            self._models[name] = model
            model.withdrawn = True
            if not model.serving:
                self._refuse_waiting(model, errors.model_not_allowed(name))
        self._host_memory.keep(entry for entry in policy.models if entry.preload)
        self._loader.wake()
        self._dispatcher.wake()

    def _read(self, name: str, read: bool) -> None:
        """The files of a model have been read into the node's memory, or are no longer kept there."""
        if name in self._models:
            self._models[name].in_host_memory = read

    def _update(self, model: Model, entry: ModelPolicy) -> None:
        changed = model.entry.identity != entry.identity
        again = changed or model.entry != entry
        model.entry = entry
        model.withdrawn = False
        model.outdated = model.outdated or changed
        # A refused folder may have been mended, and other models may have left room: look again now.
        looks_again = again or model.failed_source is not None or model.reason == "DoesNotFit"
        if model.state is State.FAILED and looks_again:
            model.retry_at = time.monotonic()

    def _suspend(self, model: Model) -> None:
        """End all that the model draws or has queued, at once, and its engine."""
        error = errors.model_suspended(model.name)
        waiting = self._waiting.take_all(lambda job: job.model is model)
        for job in waiting:
            job.answer(error)
        stopped = len(waiting) + self._dispatcher.stop(model, error)
        self.metrics.cancelled(model.name, SUSPENDED, stopped)
        if stopped or model.state is not State.ABSENT:
            log("model_suspended", model=model.name, stopped=stopped)
        self._loader.suspend(model)

    def _refuse_waiting(self, model: Model, error: errors.ApiError) -> None:
        for job in self._waiting.take_all(lambda job: job.model is model):
            job.answer(error)
        self._dispatcher.refuse(model, error)

    def _retry_after(self, model: Model) -> float:
        now = time.monotonic()
        if model.retry_at is not None:
            return max(model.retry_at - now, 0.0)
        remaining = model.load_remaining(now)
        return UNKNOWN_LOAD_SECONDS if remaining is None else remaining

    def _model_changed(self, model: Model) -> None:
        if model.state is State.FAILED:
            why = f"model {model.name!r} could not be loaded: {model.reason}: {model.message}"
            self._refuse_waiting(model, errors.model_loading(why, self._retry_after(model)))
        elif model.serving:
            self._loaded(model)
        self._dispatcher.wake()

    # Requests

    def submit(self, body: GenerateBody, request_id: str) -> Job:
        """Admit a request. Raises ApiError."""
        try:
            job = self._admit(body, request_id)
        except errors.ApiError as error:
            known = self._models.get(body.model)
            self.metrics.refused(known.name if known else "", error.code)
            raise
        self._waiting.add(job)
        self._dispatcher.wake()
        if not job.model.serving:
            self._loader.wake()
        return job

    def _admit(self, body: GenerateBody, request_id: str) -> Job:
        """Raises ApiError."""
        if self.draining:
            raise errors.draining()
        model = self._allowed(body.model)
        multiple = model.capabilities.size_multiple if model.capabilities else None
        given = body.resume
        random_seed = secrets.randbelow(RANDOM_SEEDS) if given is None else given.seed
        drawings = requests.resolve(body, model.entry, random_seed, multiple)
        if given is not None:
            resuming.check(given, model.entry, drawings)
        if self.settings.interrupt == "checkpoint":
            share = checkpoint.LIMIT_BYTES // body.n
            drawings = tuple(replace(drawing, record_bytes=share) for drawing in drawings)
        now = time.monotonic()
        seconds = DEADLINE_SECONDS[body.priority] if body.deadline_seconds is None else body.deadline_seconds
        job = Job(
            request_id=request_id,
            body=body,
            drawings=drawings,
            units=requests.units(drawings),
            model=model,
            arrived=now,
            priority=body.priority,
            deadline=now + seconds,
            result=asyncio.get_running_loop().create_future(),
        )
        if given is not None:
            resuming.take_over(job, given)
            self.metrics.resumed(model.name)
        self._check(job)
        if self._waiting.full and not self._dispatcher.begins_at_once(job):
            raise errors.queue_full(self._waiting.limit, self._place_free_after())
        return job

    def _allowed(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None or model.withdrawn:
            raise errors.model_not_allowed(name)
        if model.entry.suspended:
            raise errors.model_suspended(name)
        if model.state is State.FAILED:
            raise errors.model_failed(name, model.reason, model.message, self._retry_after(model))
        return model

    def _check(self, job: Job) -> None:
        """Refuse what cannot be drawn, as far as is known: more, once its model has been loaded. Raises ApiError."""
        requests.check_supported(job.body, job.drawings, job.model)
        admission.check_memory(job.drawings[0], job.model, self._memory_limit(job.model))
        admission.check_length(job.work_seconds, self.settings.max_request_seconds)

    def _place_free_after(self) -> float:
        """Seconds until one of the waiting requests is begun, or the first load that one of them waits for is done."""
        now = time.monotonic()
        loads = [
            model.load_remaining(now)
            for model in {job.model.name: job.model for job in self._waiting}.values()
        ]
        known = [seconds for seconds in [self._dispatcher.place_free_after(), *loads] if seconds]
        return min(known, default=UNKNOWN_LOAD_SECONDS)

    def cancel(self, job: Job, reason: str = CALLER_LEFT) -> None:
        """Nobody wants it any more: forget the request, or stop drawing at the next step."""
        job.result.cancel()
        self.metrics.cancelled(job.model.name, reason)
        if not self._waiting.discard(job):
            self._dispatcher.cancel(job)
        elif not job.model.serving:
            self._loader.wake()  # others may have been giving way to it

    async def drain(self) -> None:
        """Take no more requests, refuse those that wait, and return when those that are being drawn are answered."""
        if self.settings.interrupt == "checkpoint":
            self.interrupt()
        self.draining = True
        log("draining", waiting=len(self._waiting), running=self._dispatcher.count)
        for job in self._waiting.take_all(lambda _job: True):
            job.answer(errors.draining())
        await self._dispatcher.idle()

    def interrupt(self) -> None:
        """Take no more requests, and end those that there are, the running ones at their next step with a checkpoint.
        What cannot be interrupted is drawn to its end."""
        self.draining = True
        log("interrupted", waiting=len(self._waiting), running=self._dispatcher.count)
        for job in self._waiting.take_all(lambda _job: True):
            self.metrics.interrupted(job.model.name)
            job.answer(resuming.interrupted(job))
        self._dispatcher.interrupt()

    # What others see

    def known_model(self, name: str) -> Model | None:
        return self._models.get(name)

    def work_seconds(self) -> float:
        """Seconds until all is done: requests, and loads that requests wait for."""
        now = time.monotonic()
        asked_for = self._asked_for()
        loads = math.fsum(model.load_remaining(now) or 0.0 for model in asked_for if not model.serving)
        return loads + math.fsum(self._dispatcher.work_seconds(model) for model in asked_for)

    def _asked_for(self) -> list[Model]:
        """The models that have requests: of hundreds that it may hold mostly a few."""
        jobs = [*self._waiting, *self._dispatcher.jobs]
        return list({job.model.name: job.model for job in jobs}.values())

    def ready_seconds(self) -> float:
        """Those of them that can be drawn at once: without loads, and without the requests that wait for them."""
        return math.fsum(self._dispatcher.work_seconds(model) for model in self._asked_for() if model.serving)

    def room_seconds(self) -> float:
        """What it costs to make room for a model that is not here, in seconds of loads."""
        return self._loader.room_seconds

    def held(self) -> str:
        """The models that are here, and those that are on their way with the seconds until they are.

        Worked example: ``shapes-1,shapes-2=12.3``.
        """
        now = time.monotonic()
        parts = []
        for model in self._models.values():
            if model.serving:
                parts.append(model.name)
            elif model.state is State.LOADING:
                parts.append(f"{model.name}={model.load_remaining(now) or 0.0:.1f}")
        return ",".join(parts)

    def state(self) -> dict[str, Any]:
        """The body of ``GET /v1/worker``."""
        now = time.monotonic()
        return {
            "pod": self.settings.pod,
            "pool": self.settings.pool,
            "version": version("imagefleet"),
            "draining": self.draining,
            "workSeconds": self.work_seconds(),
            "readySeconds": self.ready_seconds(),
            "roomSeconds": self.room_seconds(),
            "queueLimit": self.settings.queue_limit,
            "memory": {"totalBytes": self._memory.bytes, "source": self._memory.source},
            "models": [
                model.as_json(
                    now,
                    queued=len(self._waiting.of(model)),
                    running=len(self._dispatcher.running(model)),
                    work_seconds=self._dispatcher.work_seconds(model),
                    memory_limit=self._memory_limit(model),
                )
                for model in self._models.values()
            ],
            "devices": [device.as_json() for device in self._nvml.devices()],
        }

    def _gauges(self) -> list[ModelGauges]:
        now = time.monotonic()
        return [
            ModelGauges(
                model=model.name,
                resident=model.state is State.RESIDENT,
                queued=_by_priority(self._waiting.of(model)),
                running=_by_priority(self._dispatcher.running(model)),
                work_seconds=self._dispatcher.work_seconds(model),
                rate=model.rate,
                memory_bytes=model.memory_bytes,
                memory_peak_bytes=model.peak_bytes,
                demand_seconds=model.demand.at(now),
            )
            for model in self._models.values()
        ]


def _by_priority(jobs: list[Job]) -> dict[str, int]:
    return {priority: sum(job.priority == priority for job in jobs) for priority in DEADLINE_SECONDS}

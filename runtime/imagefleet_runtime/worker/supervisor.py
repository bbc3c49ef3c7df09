"""The supervisor: what this worker holds, who waits for it, and the one request that has the accelerator."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from importlib.metadata import version
from typing import Any

from imagefleet_runtime.worker import calibration, deadlines, errors, messages, requests
from imagefleet_runtime.worker.handle import EngineExitedError, EngineStuckError
from imagefleet_runtime.worker.importer import Importer
from imagefleet_runtime.worker.loader import Loader
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.memory import memory_total
from imagefleet_runtime.worker.metrics import Metrics, ModelGauges
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.nvml import Nvml
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import GenerateBody, ModelPolicy, Policy
from imagefleet_runtime.worker.settings import Settings
from imagefleet_runtime.worker.threads import in_thread
from imagefleet_runtime.worker.waiting import Job, Outcome, WaitingRoom

# A seed that nobody gave; small enough to type.
RANDOM_SEEDS = 2**32
# What a client is told to wait where nobody has measured a load of this model.
UNKNOWN_LOAD_SECONDS = 10.0


class Supervisor:
    """Lives in one event loop. ``start`` before anything else, ``stop`` at the end."""

    def __init__(self, settings: Settings, importer: Importer, nvml: Nvml) -> None:
        self.settings = settings
        self.draining = False
        self._importer = importer
        self._nvml = nvml
        self._models: dict[str, Model] = {}
        self._waiting = WaitingRoom(settings.queue_limit)
        self._running: Job | None = None
        self._device = asyncio.Lock()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        # Engines use the first visible device; a pipeline over several is not offered.
        devices = nvml.devices()
        self._memory = memory_total(devices[0].memory_total_bytes if devices else None)
        self.metrics = Metrics(settings.namespace, settings.pool, self._gauges, nvml.devices)
        self._loader = Loader(
            models=self._models,
            waiting=self._waiting,
            importer=importer,
            device=self._device,
            total_bytes=self._memory.bytes,
            torch_threads=settings.torch_threads,
            load_seconds=settings.load_seconds,
            metrics=self.metrics,
            changed=self._model_changed,
            running=lambda: self._running,
        )

    async def start(self) -> None:
        """Wait for the importer, then begin to load and to draw. Raises ImporterError."""
        await in_thread(self._importer.wait_until_ready)
        self._tasks = [asyncio.create_task(self._loader.run()), asyncio.create_task(self._draw_all())]
        log("ready", pool=self.settings.pool, torch_threads=self.settings.torch_threads)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        for name, model in previous.items():
            self._models[name] = model
            model.withdrawn = True
            if not model.serving:
                self._refuse_waiting(model, "was withdrawn while the request waited for it")
        self._loader.wake()
        self._wake.set()

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

    def _refuse_waiting(self, model: Model, why: str) -> None:
        after = self._retry_after(model)
        for job in self._waiting.take_all(lambda job: job.model is model):
            job.answer(errors.model_loading(f"model {model.name!r} {why}", after))

    def _retry_after(self, model: Model) -> float:
        now = time.monotonic()
        if model.retry_at is not None:
            return max(model.retry_at - now, 0.0)
        remaining = model.load_remaining(now)
        return UNKNOWN_LOAD_SECONDS if remaining is None else remaining

    def _model_changed(self, model: Model) -> None:
        if model.state is State.FAILED:
            self._refuse_waiting(model, f"could not be loaded: {model.reason}: {model.message}")
        self._wake.set()

    # Requests

    def submit(self, body: GenerateBody, request_id: str) -> Job:
        """Admit a request. Raises ApiError."""
        if self.draining:
            raise errors.draining()
        model = self._allowed(body.model)
        drawing = requests.resolve(body, model.entry, secrets.randbelow(RANDOM_SEEDS))
        if model.capabilities is not None:
            requests.check_supported(body, drawing, model.capabilities)
        job = Job(
            request_id=request_id,
            body=body,
            drawing=drawing,
            units=requests.units(drawing),
            model=model,
            arrived=time.monotonic(),
            result=asyncio.get_running_loop().create_future(),
        )
        self._check_length(job)
        if self._waiting.full and (self._running is not None or len(self._waiting) > 0):
            raise errors.queue_full(self._waiting.limit, self.work_seconds())
        self._waiting.add(job)
        self._wake.set()
        if not model.serving:
            self._loader.wake()
        return job

    def _allowed(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None or model.withdrawn:
            raise errors.model_not_allowed(name)
        if model.state is State.FAILED:
            raise errors.model_failed(name, model.reason, model.message, self._retry_after(model))
        return model

    def _check_length(self, job: Job) -> None:
        limit = self.settings.max_request_seconds
        if job.work_seconds > limit:
            raise errors.invalid(
                "request_too_long",
                f"this would take about {math.ceil(job.work_seconds)} s; at most {limit:g} s are allowed. "
                "Ask for fewer pixels, steps or images",
            )

    def cancel(self, job: Job) -> None:
        """The caller went away: forget the request, or stop drawing at the next step."""
        job.result.cancel()
        if not self._waiting.discard(job) and self._running is job and job.model.engine is not None:
            job.model.engine.tell(messages.Cancel())

    async def drain(self) -> None:
        """Take no more requests, refuse those that wait, and return when the running one is answered."""
        self.draining = True
        log("draining", waiting=len(self._waiting), running=int(self._running is not None))
        for job in self._waiting.take_all(lambda _job: True):
            job.answer(errors.draining())
        await self._idle.wait()

    async def _draw_all(self) -> None:
        while True:
            self._wake.clear()
            # A request is taken only once the accelerator is free for it: until then its model may come and go.
            async with self._device:
                drawn = await self._draw_next()
            if not drawn:
                await self._wake.wait()

    async def _draw_next(self) -> bool:
        """Draw the first request that can be drawn; False where there is none."""
        job = self._waiting.take(lambda job: job.model.serving)
        if job is None:
            return False
        self._running = job
        self._idle.clear()
        try:
            job.answer(await self._draw(job))
        except errors.ApiError as error:
            job.answer(error)
        except Exception as error:
            job.answer(errors.engine("generation_failed", "the worker failed; it will restart"))
            raise RuntimeError("the drawing loop ended") from error  # /livez sees to the restart
        finally:
            self._running = None
            self._idle.set()
            self._loader.wake()
        return True

    async def _draw(self, job: Job) -> Outcome:
        """Raises ApiError, EngineStuckError."""
        model, engine = job.model, job.model.engine
        assert engine is not None, "a model that serves has an engine"
        if model.capabilities is not None:  # not known before the first load
            requests.check_supported(job.body, job.drawing, model.capabilities)
        self._check_length(job)
        job.started = model.last_used = time.monotonic()
        seconds = deadlines.draw_seconds(job.work_seconds, self.settings.max_request_seconds)
        try:
            answer = await engine.ask(job.drawing, seconds, job.note_progress)
        except EngineExitedError as error:
            raise errors.engine("engine_crashed", f"{error}; the model is being loaded again") from None
        match answer:
            case messages.Done():
                self._learn(job, answer)
                return Outcome(answer.images, answer.seconds)
            case messages.Failed():
                raise errors.engine(answer.code, answer.message)
            case _:
                raise errors.engine("generation_failed", "the request was cancelled")

    def _learn(self, job: Job, done: messages.Done) -> None:
        model = job.model
        model.rate = calibration.corrected(model.rate, done.seconds, job.units)
        model.last_used = time.monotonic()
        queued = job.queue_seconds(model.last_used)
        self.metrics.drawn(model.name, len(done.images), done.seconds, queued)

    # What others see

    def known_model(self, name: str) -> Model | None:
        return self._models.get(name)

    def _work_of(self, model: Model) -> float:
        """Seconds of the accelerator that the requests of ``model`` still need."""
        running = [self._running] if self._running is not None and self._running.model is model else []
        return math.fsum(job.work_seconds for job in [*self._waiting.of(model), *running])

    def work_seconds(self) -> float:
        """Seconds until all is done: requests, and loads that requests wait for."""
        now = time.monotonic()
        loads = math.fsum(
            model.load_remaining(now) or 0.0
            for model in self._models.values()
            if not model.serving and self._waiting.of(model)
        )
        return loads + sum(self._work_of(model) for model in self._models.values())

    def _running_of(self, model: Model) -> int:
        return int(self._running is not None and self._running.model is model)

    def state(self) -> dict[str, Any]:
        """The body of ``GET /v1/worker``."""
        now = time.monotonic()
        return {
            "pod": self.settings.pod,
            "pool": self.settings.pool,
            "version": version("imagefleet"),
            "draining": self.draining,
            "workSeconds": self.work_seconds(),
            "queueLimit": self.settings.queue_limit,
            "memory": {"totalBytes": self._memory.bytes, "source": self._memory.source},
            "models": [
                model.as_json(
                    now, len(self._waiting.of(model)), self._running_of(model), self._work_of(model)
                )
                for model in self._models.values()
            ],
            "devices": [device.as_json() for device in self._nvml.devices()],
        }

    def _gauges(self) -> list[ModelGauges]:
        return [
            ModelGauges(
                model=model.name,
                resident=model.state is State.RESIDENT,
                queued=len(self._waiting.of(model)),
                running=self._running_of(model),
                work_seconds=self._work_of(model),
                rate=model.rate,
                memory_bytes=model.memory_bytes,
            )
            for model in self._models.values()
        ]

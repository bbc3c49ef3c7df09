"""Loads, replaces and unloads models as the policy and the waiting requests ask. One load at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from imagefleet_runtime.worker import calibration, deadlines, messages, source
from imagefleet_runtime.worker.handle import EngineExitedError, EngineHandle, EngineHungError
from imagefleet_runtime.worker.importer import Importer, ImporterError
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import (
    Candidate,
    DoesNotFit,
    LoadNext,
    State,
    crash_delay,
    plan,
    retry_delay,
)
from imagefleet_runtime.worker.threads import in_thread
from imagefleet_runtime.worker.waiting import Job, WaitingRoom

# How often what is wrong with a folder or does not fit is looked at again: sizes, times and permissions only.
RECHECK_SECONDS = 30.0
# How long a look may take. One that takes longer says nothing.
LOOK_SECONDS = 30.0


class LoadError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Loader:
    """``device``: held while the accelerator computes. ``changed``: called when a model began or ceased to serve, with
    the model. ``running``: the job being drawn, if any. ``load_seconds``: see deadlines."""

    def __init__(
        self,
        *,
        models: dict[str, Model],
        waiting: WaitingRoom,
        importer: Importer,
        device: asyncio.Lock,
        total_bytes: int,
        torch_threads: int,
        load_seconds: float,
        metrics: Metrics,
        changed: Callable[[Model], None],
        running: Callable[[], Job | None],
    ) -> None:
        self._models = models
        self._waiting = waiting
        self._importer = importer
        self._device = device
        self._total_bytes = total_bytes
        self._torch_threads = torch_threads
        self._load_seconds = load_seconds
        self._metrics = metrics
        self._changed = changed
        self._running = running
        self._digests = source.DigestCache()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            await self._retire()
            await self._recheck_failed()
            step = plan(self._candidates(), self._total_bytes)
            if step is None:
                await self._sleep()
            else:
                await self._perform(step)

    async def stop_engines(self) -> None:
        await self._unload(*self._models.values())

    async def _perform(self, step: LoadNext | DoesNotFit) -> None:
        model = self._models[step.model]
        if isinstance(step, DoesNotFit):
            self._fail(model, "DoesNotFit", step.message, RECHECK_SECONDS)
            return
        for name in step.evict:
            log("model_evicted", model=name, for_model=model.name)
        await self._unload(*(self._models[name] for name in step.evict))
        await self._load(model)

    async def _sleep(self) -> None:
        """Until something happens, or the next failed model may be tried again."""
        times = [model.retry_at for model in self._models.values() if model.retry_at is not None]
        timeout = max(min(times) - time.monotonic(), 0.0) if times else None
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            return

    def _candidates(self) -> list[Candidate]:
        running = self._running()
        candidates = []
        for model in self._models.values():
            jobs = self._waiting.of(model)
            candidate = Candidate(
                model=model.name,
                pinned=model.entry.pinned and not model.withdrawn,
                state=model.state,
                memory_bytes=model.memory_estimate,
                oldest=jobs[0].arrived if jobs else None,
                running=running is not None and running.model is model,
                last_used=model.last_used,
            )
            candidates.append(candidate)
        return candidates

    async def _retire(self) -> None:
        """Unload what the policy no longer names, or names with other files, once its requests are done."""
        running = self._running()
        for model in list(self._models.values()):
            busy = running is not None and running.model is model
            if busy or (model.withdrawn and self._waiting.of(model)):
                continue
            if model.withdrawn or model.outdated:
                await self._unload(model)
                model.outdated = False
                model.forget_measurements()
            # The policy may have named it again meanwhile.
            if model.withdrawn and self._models.get(model.name) is model:
                del self._models[model.name]
                self._metrics.forget(model.name)
                log("model_removed", model=model.name)

    async def _recheck_failed(self) -> None:
        now = time.monotonic()
        for model in list(self._models.values()):
            if model.state is not State.FAILED or model.retry_at is None or model.retry_at > now:
                continue
            if model.failed_source is not None and await self._looks(model) == model.failed_source:
                model.retry_at = time.monotonic() + RECHECK_SECONDS
                continue
            self._set_absent(model)

    async def _looks(self, model: Model) -> object:
        """What the folder looks like (source.signature)."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await in_thread(partial(source.signature, Path(model.entry.path)))
        except TimeoutError:
            return "no answer"

    async def _unload(self, *models: Model) -> None:
        """End the engines of ``models``. First they all cease to serve, so that no request starts on one meanwhile."""
        engines = [(model, model.engine) for model in models]
        for model in models:
            model.engine = None
            self._set_absent(model)
        for model, engine in engines:
            if engine is not None:
                await engine.stop()
                log("model_unloaded", model=model.name)

    async def _stop_engine(self, model: Model) -> None:
        engine, model.engine = model.engine, None
        if engine is not None:
            await engine.stop()

    def _set_absent(self, model: Model) -> None:
        model.state = State.ABSENT
        model.reason = model.message = ""
        model.retry_at = model.load_started = model.failed_source = None

    async def _load(self, model: Model) -> None:
        model.state = State.LOADING
        model.load_started = time.monotonic()
        log("model_loading", model=model.name)
        try:
            await self._bring_up(model)
        except source.SourceError as error:
            self._fail(model, error.reason, error.message, RECHECK_SECONDS, await self._looks(model))
        except (LoadError, OSError, ImporterError, EngineHungError) as error:
            await self._stop_engine(model)
            model.failures += 1
            reason = error.reason if isinstance(error, LoadError) else "LoadFailed"
            self._fail(model, reason, str(error), retry_delay(model.failures))
        except EngineExitedError as error:
            await self._stop_engine(model)
            self.engine_crashed(model, str(error))
        else:
            self._now_serves(model)

    async def _bring_up(self, model: Model) -> None:
        """Check the folder, fork an engine, load, calibrate. Raises SourceError, EngineExitedError, LoadError, OSError,
        ImporterError, EngineStuckError."""
        entry = model.entry
        seconds = await self._check_source(model)
        model.engine = engine = await EngineHandle.start(
            self._importer, self._engine_ended, self._load_seconds
        )
        order = messages.Load(entry.path, entry.pipeline.className, entry.pipeline.dtype, self._torch_threads)
        loaded = await engine.ask(order, seconds)
        if isinstance(loaded, messages.LoadFailed):
            raise LoadError(loaded.reason, loaded.message)
        model.capabilities = loaded.capabilities
        await self._calibrate(model, engine, seconds)
        if engine.exited:  # after its last answer, and unnoticed, for the model was still loading
            raise EngineExitedError(engine.how_it_ended())

    async def _check_source(self, model: Model) -> float:
        """Check the folder; the seconds that the engine may take to load it. Raises SourceError, LoadError, OSError."""
        entry = model.entry
        folder = Path(entry.path)
        seconds = self._load_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                size = await in_thread(partial(source.total_bytes, folder))
                seconds = deadlines.load_seconds(size, seconds)
                limit.reschedule(asyncio.get_running_loop().time() + seconds)
                model.source = await in_thread(
                    lambda: source.inspect(
                        folder, self._digests, digest=entry.digest, class_name=entry.pipeline.className
                    )
                )
        except TimeoutError:
            raise LoadError("LoadFailed", f"the folder could not be read within {seconds:.0f} s") from None
        return seconds

    async def _calibrate(self, model: Model, engine: EngineHandle, seconds: float) -> None:
        """Measure the model's rate and memory, alone on the accelerator. Raises LoadError, EngineExitedError."""
        defaults = model.entry.defaults
        width, height = (_fit(side, model.capabilities) for side in defaults.width_height)
        order = messages.Calibrate(
            width=width,
            height=height,
            steps=min(defaults.steps, calibration.CALIBRATION_STEPS),
            guidance_scale=defaults.guidanceScale,
        )
        async with self._device:
            answer = await engine.ask(order, seconds)
        if isinstance(answer, messages.Failed):
            reason = "DoesNotFit" if answer.code == "out_of_memory" else "LoadFailed"
            raise LoadError(reason, f"the first drawing failed: {answer.message}")
        units = calibration.work_units(width, height, 1, 1, defaults.guidanceScale)
        model.rate = calibration.initial_rate(answer.timing, units, defaults.steps)
        model.memory_bytes = answer.memory_bytes

    def _now_serves(self, model: Model) -> None:
        now = time.monotonic()
        model.load_seconds = now - (model.load_started or now)
        model.state = State.RESIDENT
        model.load_started = None
        model.last_used = now
        model.failures = 0
        self._metrics.loaded(model.name, model.load_seconds)
        log("model_loaded", model=model.name, seconds=round(model.load_seconds, 3), rate=model.rate)
        self._changed(model)

    def _engine_ended(self, engine: EngineHandle) -> None:
        """An engine ended by itself. One that was still loading is the loading coroutine's business."""
        for model in self._models.values():
            if model.engine is engine and model.state is State.RESIDENT:
                model.engine = None
                self.engine_crashed(model, engine.how_it_ended())

    def engine_crashed(self, model: Model, how: str) -> None:
        """Load again at once; where it keeps crashing, call the model failed and wait."""
        now = time.monotonic()
        model.crashes = [*model.crashes[-9:], now]
        model.restarts += 1
        self._metrics.crashed(model.name)
        log("engine_crashed", model=model.name, message=how)
        delay = crash_delay(model.crashes, now)
        if delay is None:
            self._set_absent(model)
        else:
            self._fail(model, "EngineCrashed", f"{how}, {len(model.crashes)} times of late", delay)
        self._wake.set()

    def _fail(
        self, model: Model, reason: str, message: str, retry_seconds: float, looks: object = None
    ) -> None:
        model.state = State.FAILED
        model.reason, model.message = reason, message
        model.load_started = None
        model.retry_at = time.monotonic() + retry_seconds
        model.failed_source = looks
        log("model_failed", model=model.name, reason=reason, message=message, retry_seconds=retry_seconds)
        self._changed(model)


def _fit(side: int, capabilities: messages.Capabilities | None) -> int:
    """``side`` rounded down to what the pipeline can draw, for a default size that it cannot."""
    multiple = capabilities.size_multiple if capabilities else 1
    return max(side - side % multiple, multiple)

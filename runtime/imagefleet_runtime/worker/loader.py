"""Loads, replaces and unloads models as the policy and the waiting requests ask. One load at a time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from imagefleet_runtime.worker import source
from imagefleet_runtime.worker.bringup import BringUp, LoadError, LoadStoppedError
from imagefleet_runtime.worker.files import Files
from imagefleet_runtime.worker.handle import EngineExitedError, EngineHandle, EngineHungError
from imagefleet_runtime.worker.importer import ImporterError
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import (
    Candidate,
    DoesNotFit,
    LoadNext,
    State,
    crash_delay,
    giving_way,
    memory_limit,
    next_turn,
    plan,
    retry_delay,
    room_seconds,
)
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import NodeCache
from imagefleet_runtime.worker.threads import in_thread
from imagefleet_runtime.worker.waiting import Job, WaitingRoom

# How often what is wrong with a folder or does not fit is looked at again: sizes, times and permissions only.
RECHECK_SECONDS = 30.0
# How long a look may take. One that takes longer says nothing.
LOOK_SECONDS = 30.0


class Loader:
    """``overhead_bytes``: of memory that each engine needs beside its model's. ``changed``: called when a model began
    or ceased to serve, with the model. ``running``: the requests of a model that are being drawn. ``gave_way``: called
    when other requests may begin than before."""

    def __init__(
        self,
        *,
        models: dict[str, Model],
        waiting: WaitingRoom,
        total_bytes: int,
        overhead_bytes: int,
        cache: NodeCache,
        bring_up: BringUp,
        metrics: Metrics,
        changed: Callable[[Model], None],
        running: Callable[[Model], list[Job]],
        gave_way: Callable[[], None],
    ) -> None:
        self._models = models
        self._waiting = waiting
        self._total_bytes = total_bytes
        self._overhead_bytes = overhead_bytes
        self._cache = cache
        self._bring_up = bring_up
        self._metrics = metrics
        self._changed = changed
        self._running = running
        self._gave_way = gave_way
        self._ending: list[EngineHandle] = []  # were told to end
        self.room_seconds = 0.0  # as of the last look: what room for one more model costs
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something changed. What is to be fetched for that is fetched beside the load that may be under way."""
        self._want_files()
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            await self._retire()
            await self._recheck_failed()
            self._want_files()
            self._look_at_fetches()
            now, candidates = time.monotonic(), self._candidates()
            self.room_seconds = room_seconds(candidates, self._total_bytes)
            self._give_way(giving_way(candidates, self._total_bytes, now))
            step = plan(candidates, self._total_bytes, now)
            if step is None:
                await self._sleep(next_turn(candidates, now))
            else:
                await self._perform(step)

    def suspend(self, model: Model) -> None:
        """End what it has, at once and without waiting for a load of another model. Without effect on one that has
        nothing. It is not loaded again while its policy says so."""
        model.stopped = model.stopped or model.load_started is not None
        if model.engine is not None:
            model.engine.end()
            self._ending.append(model.engine)
            model.engine = None
            log("model_unloaded", model=model.name)
        self._set_absent(model)
        self._wake.set()

    async def stop_engines(self) -> None:
        await self._unload(*self._models.values())

    async def _perform(self, step: LoadNext | DoesNotFit) -> None:
        model = self._models[step.model]
        if isinstance(step, DoesNotFit):
            self._fail(model, "DoesNotFit", step.message, RECHECK_SECONDS)
            return
        for name in step.evict:
            self._metrics.evicted(name)
            log("model_evicted", model=name, for_model=model.name)
        await self._unload(*(self._models[name] for name in step.evict))
        await self._load(model)

    def _give_way(self, since: dict[str, float]) -> None:
        before = [model.begins_until for model in self._models.values()]
        for model in self._models.values():
            model.begins_until = since.get(model.name, math.inf)
        if before != [model.begins_until for model in self._models.values()]:
            self._gave_way()

    async def _sleep(self, turn: float | None) -> None:
        """Until something happens, the next failed model may be tried again, or it may be another model's turn."""
        times = [model.retry_at for model in self._models.values() if model.retry_at is not None]
        if turn is not None:
            times.append(turn)
        timeout = max(min(times) - time.monotonic(), 0.0) if times else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):  # not wait_for, which can lose a cancellation
                await self._wake.wait()

    def memory_limit(self, model: Model) -> int:
        """Bytes that the engine of ``model`` may use: what the others need is theirs."""
        others = [
            other.memory_estimate + self._overhead_bytes
            for other in self._models.values()
            if other is not model and (other.state is State.RESIDENT or other.load_started is not None)
        ]
        return memory_limit(self._total_bytes - self._overhead_bytes, model.memory_estimate, others)

    def _candidates(self) -> list[Candidate]:
        """All but those whose files are not here: they need no memory yet."""
        candidates, now = [], time.monotonic()
        oldest: dict[str, float] = {}
        for job in self._waiting:
            oldest[job.model.name] = min(job.claimed, oldest.get(job.model.name, math.inf))
        for model in self._models.values():
            state = model.state
            if state in (State.ABSENT, State.LOADING):
                if model.files is None or not model.files.ready:
                    continue
                state = State.ABSENT if model.load_started is None else State.LOADING
            candidate = Candidate(
                model=model.name,
                pinned=model.pinned,
                state=state,
                memory_bytes=model.memory_estimate + self._overhead_bytes,
                oldest=oldest.get(model.name),
                running=state is State.RESIDENT and bool(self._running(model)),
                last_used=model.last_used,
                demand=model.demand.at(now),
                load_seconds=model.expected_load_seconds,
                loaded=model.loaded_at,
                leaving=model.withdrawn,
            )
            candidates.append(candidate)
        return candidates

    def _wanted(self, model: Model) -> bool:
        return model.pinned or bool(self._waiting.of(model))

    def _want_files(self) -> None:
        """Have the files brought here that are needed; several models' at once."""
        for model in self._models.values():
            if model.state is State.ABSENT and model.files is None and self._wanted(model):
                model.files = Files(self._cache, model.entry, self._wake.set)
                if not model.files.ready:
                    model.state, model.stage, model.load_stages = State.LOADING, "fetch", {}
                    log("model_fetching", model=model.name)

    def _look_at_fetches(self) -> None:
        for model in self._models.values():
            files = model.files
            if model.state is not State.LOADING or model.load_started is not None or files is None:
                continue
            if files.ended is not None and "fetch" not in model.load_stages:
                model.load_stages["fetch"] = files.ended - files.started
                self._metrics.fetched(model.name, files.fetched_bytes)
            if files.error is not None:
                model.failures += 1
                reason = files.error.reason if isinstance(files.error, SourceError) else "FetchFailed"
                self._fail(model, reason, str(files.error), retry_delay(model.failures))
            elif files.ready and not self._wanted(model):
                self._set_absent(model)

    async def _retire(self) -> None:
        """Unload what the policy no longer names, or names with other files, once its requests are done.

        First wait for the engines that were told to end: until then their memory is theirs. Raises EngineStuckError.
        """
        while self._ending:
            await self._ending.pop().stop()
        for model in list(self._models.values()):
            if self._running(model) or (model.withdrawn and self._waiting.of(model)):
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
                return await in_thread(partial(source.signature, Path(model.entry.path or "")))
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
        model.reason = model.message = model.stage = ""
        model.retry_at = model.load_started = model.failed_source = None
        self._release(model)

    def _release(self, model: Model) -> None:
        if model.files is not None:
            model.files.release()
            model.files = None

    async def _load(self, model: Model) -> None:
        model.state = State.LOADING
        model.stopped = False
        model.load_started = time.monotonic()
        model.load_stages = {name: part for name, part in model.load_stages.items() if name == "fetch"}
        log("model_loading", model=model.name)
        try:
            await self._bring_up.run(model, self.memory_limit(model), self._engine_ended)
        except LoadStoppedError:
            await self._unload(model)
        except SourceError as error:
            # A local folder may be mended; a remote one was fetched with the right digest, and will be the same again.
            looks = None if model.entry.path is None else await self._looks(model)
            model.failures += 1
            retry = retry_delay(model.failures) if looks is None else RECHECK_SECONDS
            self._fail(model, error.reason, error.message, retry, looks)
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

    def _now_serves(self, model: Model) -> None:
        now = time.monotonic()
        model.load_seconds = now - (model.load_started or now)
        model.loaded_ns = time.time_ns()
        model.state = State.RESIDENT
        model.stage = ""
        model.load_started = None
        model.last_used = model.loaded_at = now
        model.failures = 0
        self._metrics.loaded(model.name, model.load_seconds, model.load_stages)
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
        model.reason, model.message, model.stage = reason, message, ""
        model.load_started = None
        model.retry_at = time.monotonic() + retry_seconds
        model.failed_source = looks
        self._release(model)
        log("model_failed", model=model.name, reason=reason, message=message, retry_seconds=retry_seconds)
        self._changed(model)

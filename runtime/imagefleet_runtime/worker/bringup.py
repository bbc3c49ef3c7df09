"""One load: check the files, fork an engine, have it load, warm and measure the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imagefleet_runtime.worker import calibration, deadlines, messages, source
from imagefleet_runtime.worker.files import Files
from imagefleet_runtime.worker.handle import EngineExitedError, EngineHandle
from imagefleet_runtime.worker.importer import Importer, ImporterError
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.threads import in_thread

# The last stage before the engine draws, to warm up and to measure.
BEFORE_WARM = "options"


class LoadError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class LoadStoppedError(Exception):
    """The model was suspended meanwhile."""


@dataclass(frozen=True)
class BringUp:
    """``load_seconds``: see deadlines. ``max_batch``: the largest that is measured. ``measure``: called with True when
    an engine begins to measure itself, so that nothing else is begun meanwhile, and with False at the end."""

    importer: Importer
    torch_threads: int
    load_seconds: float
    max_batch: int
    compiled: Path | None  # where compiled code is kept between engines
    digests: source.DigestCache
    measure: Callable[[bool], None]

    async def run(self, model: Model, memory_limit: int, on_exit: Callable[[EngineHandle], None]) -> None:
        """Leaves the engine in ``model``, also where this raises.

        Raises SourceError, EngineExitedError, LoadError, OSError, ImporterError, EngineStuckError; LoadStoppedError
        where the model was stopped, whatever became of the load.
        """
        try:
            await self._run(model, memory_limit, on_exit)
        except (SourceError, EngineExitedError, LoadError, OSError, ImporterError):
            if not model.stopped:
                raise
        _go_on(model)

    async def _run(self, model: Model, memory_limit: int, on_exit: Callable[[EngineHandle], None]) -> None:
        """Raises as ``run``."""
        entry, files = model.entry, model.files
        assert files is not None, "files are brought here before they are loaded"
        assert files.ready, "and all of them"
        with stage(model, "verify"):
            seconds = await self._check(model, files)
        _go_on(model)
        with stage(model, "fork"):
            model.engine = engine = await EngineHandle.start(self.importer, on_exit, self.load_seconds)
        _go_on(model)
        order = messages.Load(
            path=str(files.pipeline),
            options=entry.pipeline.options(),
            threads=self.torch_threads,
            warmth=self._warmth(model, memory_limit),
            adapters={name: str(path) for name, path in files.adapters.items()},
            cache_dir=None if self.compiled is None else str(self.compiled),
        )
        model.stage = "weights"
        try:
            loaded = await engine.load(order, seconds, partial(self._staged, model))
        finally:
            self.measure(False)
        if isinstance(loaded, messages.LoadFailed):
            raise LoadError(loaded.reason, loaded.message)
        model.loaded(loaded)
        if engine.exited:  # after its last answer, and unnoticed, for the model was still loading
            raise EngineExitedError(engine.how_it_ended())

    def _warmth(self, model: Model, memory_limit: int) -> messages.Warmth:
        defaults = model.entry.defaults
        return messages.Warmth(
            sizes=model.entry.warm_sizes,
            steps=min(defaults.steps, calibration.CALIBRATION_STEPS),
            guidance_scale=defaults.guidanceScale,
            max_batch=self.max_batch,
            memory_bytes=memory_limit,
        )

    def _staged(self, model: Model, ended: messages.Stage) -> None:
        following = {"weights": "options", "options": "warm"}
        model.load_stages[ended.name] = ended.seconds
        model.stage = following.get(ended.name, model.stage)
        if ended.name == BEFORE_WARM:
            self.measure(True)

    async def _check(self, model: Model, files: Files) -> float:
        """Check the files; the seconds that each stage of loading them may take.

        Raises SourceError, LoadError, OSError.
        """
        entry, folder = model.entry, files.pipeline
        seconds = self.load_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                size = await in_thread(partial(source.total_bytes, folder))
                seconds = deadlines.load_seconds(size, seconds)
                limit.reschedule(asyncio.get_running_loop().time() + seconds)
                model.source = await in_thread(
                    lambda: source.inspect(
                        folder, self.digests, digest=entry.digest, class_name=entry.pipeline.className
                    )
                )
                for adapter in entry.adapters:
                    check = partial(source.inspect_adapter, files.adapters[adapter.name], self.digests)
                    await in_thread(partial(check, digest=adapter.digest))
        except TimeoutError:
            raise LoadError("LoadFailed", f"the folder could not be read within {seconds:.0f} s") from None
        return seconds


def _go_on(model: Model) -> None:
    """Raises LoadStoppedError."""
    if model.stopped:
        raise LoadStoppedError


@contextlib.contextmanager
def stage(model: Model, name: str) -> Iterator[None]:
    """Tell what a load is at, and how long that took."""
    model.stage = name
    started = time.monotonic()
    yield
    model.load_stages[name] = time.monotonic() - started
    log("load_stage", model=model.name, stage=name, seconds=round(model.load_stages[name], 3))

"""Engines that do not answer, or die at a bad moment: real processes without a model."""

import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from imagefleet_runtime.worker import handle, messages, source
from imagefleet_runtime.worker.bringup import BringUp
from imagefleet_runtime.worker.handle import EngineHandle, EngineHungError, EngineStuckError
from imagefleet_runtime.worker.importer import ImporterError
from imagefleet_runtime.worker.loader import Loader
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.sources import NodeCache
from imagefleet_runtime.worker.waiting import WaitingRoom

from tests.unit.worker.engine_fakes import LOADED
from tests.unit.worker.test_source import make_model

ORDER = messages.Load("/model", messages.Options(), 1, messages.Warmth(((64, 64),), 4, 5.0, 1, None))


def never_answer(connection: Connection) -> None:
    connection.recv()
    time.sleep(3600)


def load_and_die(connection: Connection) -> None:
    connection.recv()
    connection.send(messages.Stage("weights", 0.1))
    connection.send(LOADED)
    os._exit(1)


def load_slowly(connection: Connection) -> None:
    """Each stage takes most of the time that one may take."""
    connection.recv()
    for name in ("weights", "options", "warm"):
        time.sleep(0.8)
        connection.send(messages.Stage(name, 0.8))
    connection.send(LOADED)
    connection.recv()


class FakeImporter:
    """Forks engines that do as told."""

    def __init__(self, engine: Callable[[Connection], None] = never_answer) -> None:
        self.engine = engine
        self.forked: list[Any] = []

    def fork(self, _target: Callable[..., None]) -> tuple[Any, Connection]:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=self.engine, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self.forked.append(process)
        return process, ours


@pytest.fixture
def importer() -> FakeImporter:
    return FakeImporter()


@pytest_asyncio.fixture
async def engine(importer: Any) -> AsyncIterator[tuple[EngineHandle, list[EngineHandle]]]:
    ended: list[EngineHandle] = []
    started = await EngineHandle.start(importer, ended.append, 10)
    yield started, ended
    await started.stop()


async def test_an_engine_that_does_not_answer_in_time_is_killed(
    engine: tuple[EngineHandle, list[EngineHandle]],
) -> None:
    hung, ended = engine
    with pytest.raises(EngineHungError, match="no answer within 0 s and was killed"):
        await hung.load(ORDER, 0.01, lambda _stage: None)
    assert hung.exited
    assert ended == [hung], "its owner learns of the end, to load the model again"


async def test_a_process_that_cannot_be_killed_is_said_to_be_stuck(
    engine: tuple[EngineHandle, list[EngineHandle]],
    importer: FakeImporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hung, _ = engine
    with monkeypatch.context() as patched:
        patched.setattr(handle, "KILL_SECONDS", 0.01)
        patched.setattr(importer.forked[0], "kill", lambda: None)
        with pytest.raises(EngineStuckError, match="after SIGKILL"):
            await hung.load(ORDER, 0.01, lambda _stage: None)


async def test_an_importer_that_does_not_fork_is_given_up() -> None:
    class Hanging:
        def fork(self, _target: object) -> None:
            time.sleep(1)

    with pytest.raises(ImporterError, match=r"forked no engine within 0.01 s"):
        await EngineHandle.start(Hanging(), lambda _engine: None, 0.01)  # type: ignore[arg-type]


def loader_of(
    model: Model, importer: Any, load_seconds: float, ended: asyncio.Event, until: State, cache: Path
) -> Loader:
    def changed(changed: Model) -> None:
        if changed.state is until:
            ended.set()

    digests = source.DigestCache()
    bring_up = BringUp(
        importer=importer,
        torch_threads=1,
        load_seconds=load_seconds,
        max_batch=4,
        compiled=None,
        digests=digests,
        measure=lambda _measuring: None,
    )

    return Loader(
        models={model.name: model},
        waiting=WaitingRoom(1),
        total_bytes=10**9,
        overhead_bytes=0,
        cache=NodeCache(cache, 0, 10**9, digests=digests),
        bring_up=bring_up,
        metrics=Metrics("team-a", "images", list, list),
        changed=changed,
        running=lambda _model: [],
        gave_way=lambda: None,
    )


def model_in(folder: Path) -> Model:
    digest = source.inspect(make_model(folder), source.DigestCache()).digest
    return Model(ModelPolicy(model="shapes", path=str(folder), digest=digest, pinned=True))


async def load(model: Model, importer: Any, load_seconds: float, tmp_path: Path, until: State) -> None:
    ended = asyncio.Event()
    loader = loader_of(model, importer, load_seconds, ended, until, tmp_path / "cache")
    running = asyncio.create_task(loader.run())
    async with asyncio.timeout(30):
        await ended.wait()
    running.cancel()


async def failure_of(model: Model, importer: Any, load_seconds: float, tmp_path: Path) -> tuple[str, str]:
    """Load until the model is called failed; its reason and message."""
    await load(model, importer, load_seconds, tmp_path, State.FAILED)
    return model.reason, model.message


async def test_a_load_may_take_its_time_stage_by_stage(tmp_path: Path) -> None:
    """2.4 s in all, where each stage may take two."""
    model = model_in(tmp_path / "model")
    await load(model, FakeImporter(load_slowly), 2.0, tmp_path, State.RESIDENT)
    assert set(model.load_stages) == {"verify", "fork", "weights", "options", "warm"}
    assert model.stage == ""
    assert model.engine is not None
    await model.engine.stop()


async def test_a_load_that_hangs_fails_and_frees_its_engine(tmp_path: Path, importer: FakeImporter) -> None:
    model = model_in(tmp_path / "model")
    reason, message = await failure_of(model, importer, load_seconds=2, tmp_path=tmp_path)
    assert (reason, message) == (
        "LoadFailed",
        "the engine process gave no answer within 2 s and was killed",
    )
    assert model.engine is None
    assert model.restarts == 0


async def test_a_folder_that_does_not_answer_fails_the_load(
    tmp_path: Path, importer: FakeImporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_in(tmp_path / "model")
    monkeypatch.setattr(source, "total_bytes", lambda _folder: time.sleep(1))
    reason, message = await failure_of(model, importer, load_seconds=0.1, tmp_path=tmp_path)
    assert (reason, message) == ("LoadFailed", "the folder could not be read within 0 s")
    assert importer.forked == []


async def test_an_engine_that_dies_right_after_its_last_answer_counts_as_crashed(tmp_path: Path) -> None:
    model = model_in(tmp_path / "model")
    reason, message = await failure_of(model, FakeImporter(load_and_die), load_seconds=10, tmp_path=tmp_path)
    assert (reason, message) == (
        "EngineCrashed",
        "the engine process ended with exit code 1, 3 times of late",
    )
    assert model.engine is None

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
from imagefleet_runtime.worker.handle import EngineHandle, EngineHungError, EngineStuckError
from imagefleet_runtime.worker.importer import ImporterError
from imagefleet_runtime.worker.loader import Loader
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.waiting import WaitingRoom

from tests.unit.worker.test_source import make_model


def never_answer(connection: Connection) -> None:
    connection.recv()
    time.sleep(3600)


def load_and_die(connection: Connection) -> None:
    connection.recv()
    connection.send(messages.Loaded(messages.Capabilities("StableDiffusionPipeline", 8, frozenset(), False)))
    connection.recv()
    connection.send(messages.Calibrated(messages.Timing(0.1, 4, 0.05), None))
    os._exit(1)


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
        await hung.ask("question", 0.01)
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
            await hung.ask("question", 0.01)


async def test_an_importer_that_does_not_fork_is_given_up() -> None:
    class Hanging:
        def fork(self, _target: object) -> None:
            time.sleep(1)

    with pytest.raises(ImporterError, match=r"forked no engine within 0.01 s"):
        await EngineHandle.start(Hanging(), lambda _engine: None, 0.01)  # type: ignore[arg-type]


def loader_of(model: Model, importer: Any, load_seconds: float, failed: asyncio.Event) -> Loader:
    def changed(changed: Model) -> None:
        if changed.state is State.FAILED:
            failed.set()

    return Loader(
        models={model.name: model},
        waiting=WaitingRoom(1),
        importer=importer,
        device=asyncio.Lock(),
        total_bytes=10**9,
        torch_threads=1,
        load_seconds=load_seconds,
        metrics=Metrics("team-a", "images", list, list),
        changed=changed,
        running=lambda: None,
    )


def model_in(folder: Path) -> Model:
    digest = source.inspect(make_model(folder), source.DigestCache()).digest
    return Model(ModelPolicy(model="shapes", path=str(folder), digest=digest, pinned=True))


async def failure_of(model: Model, importer: Any, load_seconds: float) -> tuple[str, str]:
    """Load until the model is called failed; its reason and message."""
    failed = asyncio.Event()
    loader = loader_of(model, importer, load_seconds, failed)
    running = asyncio.create_task(loader.run())
    async with asyncio.timeout(30):
        await failed.wait()
    running.cancel()
    return model.reason, model.message


async def test_a_load_that_hangs_fails_and_frees_its_engine(tmp_path: Path, importer: FakeImporter) -> None:
    model = model_in(tmp_path / "model")
    reason, message = await failure_of(model, importer, load_seconds=2)
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
    reason, message = await failure_of(model, importer, load_seconds=0.1)
    assert (reason, message) == ("LoadFailed", "the folder could not be read within 0 s")
    assert importer.forked == []


async def test_an_engine_that_dies_right_after_its_last_answer_counts_as_crashed(tmp_path: Path) -> None:
    model = model_in(tmp_path / "model")
    reason, message = await failure_of(model, FakeImporter(load_and_die), load_seconds=10)
    assert (reason, message) == (
        "EngineCrashed",
        "the engine process ended with exit code 1, 3 times of late",
    )
    assert model.engine is None

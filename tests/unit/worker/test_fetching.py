"""Models whose files are fetched: beside the loads of others, and let go of in the end."""

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from imagefleet_runtime.worker import source
from imagefleet_runtime.worker.bringup import BringUp
from imagefleet_runtime.worker.files import Files
from imagefleet_runtime.worker.loader import Loader
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import FetchStoppedError, Place
from imagefleet_runtime.worker.waiting import WaitingRoom
from prometheus_client import generate_latest

from tests.unit.worker.engine_fakes import LOADED
from tests.unit.worker.test_source import make_model as make_folder
from tests.unit.worker.test_waiting import make_job

pytestmark = pytest.mark.timeout(60)


class FakeCache:
    """Fetches ``hf://NAME`` when the test says so, and counts who holds what."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.may_go_on = {name: threading.Event() for name in folders}
        self.begun = {name: threading.Event() for name in folders}
        self.stopped = threading.Event()
        self.released = threading.Event()
        self.deaf = False  # to a wish to stop
        self.errors: dict[str, SourceError] = {}
        self.held: list[Path] = []

    def fetch(self, place: Place, on_progress: Callable[[int, int], None], stop: threading.Event) -> Path:
        name = (place.uri or "").removeprefix("hf://")
        on_progress(25, 100)
        self.begun[name].set()
        while not self.may_go_on[name].wait(0.01):
            if stop.is_set() and not self.deaf:
                self.stopped.set()
                raise FetchStoppedError
        if name in self.errors:
            raise self.errors[name]
        on_progress(100, 100)
        self.held.append(self.folders[name])
        return self.folders[name]

    def release(self, path: Path) -> None:
        self.held.remove(path)
        self.released.set()

    def fetched_bytes(self, place: Place) -> int:
        return 75 if self.may_go_on[(place.uri or "").removeprefix("hf://")].is_set() else 0


def load_well(connection: Connection) -> None:
    connection.recv()
    connection.send(LOADED)
    connection.recv()


class FakeImporter:
    def fork(self, _target: Callable[..., None]) -> tuple[Any, Connection]:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=load_well, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process, ours


class Depot:
    """A loader, two remote models "a" and "b", and a local one, "c"; a test pins those that it wants."""

    def __init__(self, folder: Path) -> None:
        folders = {name: make_folder(folder / name) for name in "abc"}
        digest = source.inspect(folders["a"], source.DigestCache()).digest
        self.cache = FakeCache({name: folders[name] for name in "ab"})
        self.models = {name: Model(self._entry(name, digest, uri=f"hf://{name}")) for name in "ab"} | {
            "c": Model(self._entry("c", digest, path=str(folders["c"])))
        }
        self.waiting = WaitingRoom(8)
        self.metrics = Metrics("team-a", "images", list, list)
        self._changes = asyncio.Event()
        bring_up = BringUp(
            importer=cast(Any, FakeImporter()),
            torch_threads=1,
            load_seconds=20.0,
            max_batch=4,
            compiled=None,
            digests=source.DigestCache(),
            measure=lambda _measuring: None,
        )
        self.loader = Loader(
            models=self.models,
            waiting=self.waiting,
            total_bytes=10**9,
            overhead_bytes=0,
            cache=cast(Any, self.cache),
            bring_up=bring_up,
            metrics=self.metrics,
            changed=lambda _model: self._changes.set(),
            running=lambda _model: [],
            gave_way=lambda: None,
        )
        self.task = asyncio.create_task(self.loader.run())

    def _entry(self, name: str, digest: str, **where: str) -> ModelPolicy:
        return ModelPolicy.model_validate({"model": name, "digest": digest, **where})

    def pin(self, *names: str) -> None:
        for name in names:
            model = self.models[name]
            model.entry = model.entry.model_copy(update={"pinned": True})
        self.loader.wake()

    async def until(self, name: str, state: State) -> Model:
        model = self.models[name]
        while model.state is not state:
            await self._changes.wait()
            self._changes.clear()
        return model

    async def fetching(self, *names: str) -> None:
        for name in names:
            await asyncio.to_thread(self.cache.begun[name].wait)


@pytest_asyncio.fixture
async def depot(tmp_path: Path) -> AsyncIterator[Depot]:
    depot = Depot(tmp_path)
    yield depot
    depot.task.cancel()
    for event in depot.cache.may_go_on.values():
        event.set()
    await depot.loader.stop_engines()


async def test_a_remote_model_is_fetched_and_then_loaded(depot: Depot) -> None:
    depot.pin("a")
    await depot.fetching("a")
    report = depot.models["a"].as_json(0.0, 0, 0, 0.0, 0)
    assert (report["state"], report["stage"]) == ("Loading", "fetch")
    assert (report["fetchedBytes"], report["fetchTotalBytes"]) == (25, 100)
    depot.cache.may_go_on["a"].set()
    model = await depot.until("a", State.RESIDENT)
    assert set(model.load_stages) == {"fetch", "verify", "fork"}
    assert depot.cache.held == [depot.cache.folders["a"]]
    assert 'fetched_bytes_total{model="a",namespace="team-a",pool="images"} 75.0' in (
        generate_latest(depot.metrics.registry).decode()
    )


async def test_fetches_run_beside_each_other_and_beside_loads(depot: Depot) -> None:
    depot.pin("a", "b", "c")
    await depot.fetching("a", "b")
    await depot.until("c", State.RESIDENT)
    depot.cache.may_go_on["b"].set()
    await depot.until("b", State.RESIDENT)
    assert depot.models["a"].state is State.LOADING


async def test_a_fetch_that_fails_is_said_and_tried_again_later(depot: Depot) -> None:
    depot.cache.errors["a"] = SourceError("AccessDenied", "the token is not good enough")
    depot.cache.may_go_on["a"].set()
    depot.pin("a")
    model = await depot.until("a", State.FAILED)
    assert (model.reason, model.message) == ("AccessDenied", "the token is not good enough")
    assert model.retry_at is not None
    assert model.files is None


async def test_a_model_that_is_withdrawn_while_it_is_fetched_stops_that(depot: Depot) -> None:
    depot.pin("a")
    await depot.fetching("a")
    depot.models["a"].withdrawn = True
    depot.loader.wake()
    await asyncio.to_thread(depot.cache.stopped.wait)
    assert depot.cache.held == []
    assert "a" not in depot.models


async def test_files_are_held_until_the_model_is_unloaded(depot: Depot) -> None:
    depot.cache.may_go_on["a"].set()
    depot.pin("a")
    model = await depot.until("a", State.RESIDENT)
    await depot.loader.stop_engines()
    assert depot.cache.held == []
    assert model.files is None


async def test_a_model_that_nobody_waits_for_any_more_is_not_loaded(depot: Depot) -> None:
    """Its files stay in the cache."""
    model = depot.models["a"]
    job = make_job(model, asyncio.get_running_loop())
    depot.waiting.add(job)
    depot.loader.wake()
    await depot.fetching("a")
    depot.waiting.discard(job)
    depot.cache.may_go_on["a"].set()
    depot.pin("c")
    await depot.until("c", State.RESIDENT)
    await asyncio.to_thread(depot.cache.released.wait)
    assert model.state is State.ABSENT
    assert depot.cache.held == []


async def test_a_fetch_that_outlives_its_model_lets_go_of_what_it_fetched(tmp_path: Path) -> None:
    cache = FakeCache({"a": tmp_path})
    entry = ModelPolicy.model_validate({"model": "a", "digest": "sha256:" + "0" * 64, "uri": "hf://a"})
    told = asyncio.Event()
    files = Files(cast(Any, cache), entry, told.set)
    cache.deaf = True
    await asyncio.to_thread(cache.begun["a"].wait)
    files.release()
    cache.may_go_on["a"].set()
    await asyncio.to_thread(cache.released.wait)
    assert cache.held == []
    assert not told.is_set()


async def test_how_long_a_fetch_will_take(tmp_path: Path) -> None:
    cache = FakeCache({"a": tmp_path})
    entry = ModelPolicy.model_validate({"model": "a", "digest": "sha256:" + "0" * 64, "uri": "hf://a"})
    told = asyncio.Event()
    files = Files(cast(Any, cache), entry, told.set)
    assert files.remaining_seconds(files.started + 1.0) is None, "the source has not answered"
    await asyncio.to_thread(cache.begun["a"].wait)
    # A quarter in 10 s: the rest takes 30.
    assert files.remaining_seconds(files.started + 10.0) == pytest.approx(30.0)
    cache.may_go_on["a"].set()
    await told.wait()
    assert files.remaining_seconds(files.started + 99.0) == 0.0

"""A model that its policy suspends: what it draws or has queued ends at once, whatever it is at."""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.checks import Hooks
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import Policy
from imagefleet_runtime.worker.waiting import Job, Picture
from PIL import Image
from prometheus_client import generate_latest

from tests.unit.worker.http_fakes import FakeSupervisor, answer, ask, client_of, make_app
from tests.unit.worker.pictures import encoded, noise
from tests.unit.worker.test_hangs import FakeImporter, load_slowly, loader_of, model_in
from tests.unit.worker.test_supervisor import Office

pytestmark = pytest.mark.timeout(30)


def policy(*entries: dict[str, Any]) -> Policy:
    common = {"path": "/m", "digest": "sha256:" + "0" * 64}
    return Policy.model_validate({"models": [common | entry for entry in entries]})


SERVES = policy({"model": "shapes-1"})
SUSPENDED = policy({"model": "shapes-1", "pinned": True, "suspended": True})


async def code_of(job: Job) -> tuple[int, str]:
    with pytest.raises(ApiError) as error:
        await job.result
    return error.value.status, error.value.code


async def test_what_runs_waits_or_comes_is_refused_and_the_engine_ended() -> None:
    office = Office()
    engine = office.serve()
    drawing = asyncio.create_task(office.supervisor._dispatcher.run())
    runs = office.submit()
    await engine.draw()
    waits = office.submit(width=1024, height=1024)
    office.supervisor.apply(SUSPENDED)
    # At once: before any other task had its turn.
    assert runs.result.done()
    assert waits.result.done()
    assert await code_of(runs) == await code_of(waits) == (503, "model_suspended")
    refused = office.refusal()
    assert (refused.status, refused.kind, refused.code) == (503, "server_error", "model_suspended")
    assert refused.retry_after is None
    assert engine.process.exitcode == -9
    [state] = office.supervisor.state()["models"]
    assert (state["state"], state["queued"]) == ("Absent", 0)
    text = generate_latest(office.supervisor.metrics.registry).decode()
    labels = 'model="shapes-1",namespace="team-a",pool="images"'
    assert f'cancelled_total{{{labels},reason="suspended"}} 2.0' in text
    assert f'refused_total{{code="model_suspended",{labels}}} 1.0' in text
    drawing.cancel()


async def test_it_is_lifted_by_a_policy_that_does_not_say_so_and_by_nothing_else() -> None:
    office = Office()
    office.serve()
    for _ in range(2):
        office.supervisor.apply(SUSPENDED)
        assert office.refusal().code == "model_suspended"
        assert office.model.state is State.ABSENT
    office.supervisor.apply(SERVES)
    assert not office.submit().result.done()


async def test_other_models_draw_on() -> None:
    office = Office()
    engine = office.serve()
    drawing = asyncio.create_task(office.supervisor._dispatcher.run())
    job = office.submit()
    order = await engine.draw()
    office.supervisor.apply(policy({"model": "shapes-1"}, {"model": "shapes-2", "suspended": True}))
    engine.drawn(order)
    assert (await job.result).images == (b"picture %d" % order.seed,)
    assert office.refusal(model="shapes-2").code == "model_suspended"
    drawing.cancel()
    engine.process.kill()


async def test_a_model_that_failed_is_absent_while_it_is_suspended() -> None:
    office = Office()
    office.model.state, office.model.reason, office.model.retry_at = State.FAILED, "LoadFailed", 1e12
    office.supervisor.apply(SUSPENDED)
    [state] = office.supervisor.state()["models"]
    assert (state["state"], state["reason"]) == ("Absent", "")


async def test_a_model_that_is_named_no_more_is_no_longer_allowed() -> None:
    office = Office()
    office.supervisor.apply(SUSPENDED)
    office.supervisor.apply(policy())
    assert office.refusal().code == "model_not_allowed"


async def test_a_load_is_stopped_and_begun_again_once_that_is_lifted(tmp_path: Path) -> None:
    ordered = multiprocessing.get_context("fork").Event()

    def take_the_order(connection: Connection) -> None:
        connection.recv()
        ordered.set()
        connection.recv()

    model, importer, serves = model_in(tmp_path / "model"), FakeImporter(take_the_order), asyncio.Event()
    loader = loader_of(model, importer, 600, serves, State.RESIDENT, tmp_path / "cache")
    running = asyncio.create_task(loader.run())
    assert await asyncio.to_thread(ordered.wait, 20)
    allowed = model.entry
    model.entry = allowed.model_copy(update={"suspended": True})
    loader.suspend(model)
    assert (model.state, model.engine) == (State.ABSENT, None)
    [engine] = importer.forked
    await asyncio.to_thread(engine.join, 20)
    importer.engine = load_slowly
    model.entry = allowed
    loader.wake()
    await serves.wait()
    assert (model.restarts, model.failures) == (0, 0)
    assert len(importer.forked) == 2
    running.cancel()
    await loader.stop_engines()


async def test_a_suspended_model_is_not_loaded_though_it_is_pinned(tmp_path: Path) -> None:
    model, importer = model_in(tmp_path / "model"), FakeImporter()
    model.entry = model.entry.model_copy(update={"suspended": True})
    loader = loader_of(model, importer, 600, asyncio.Event(), State.RESIDENT, tmp_path / "cache")
    running = asyncio.create_task(loader.run())
    for _ in range(10):
        loader.wake()
        await asyncio.sleep(0)
    assert (model.state, model.files, importer.forked) == (State.ABSENT, None, [])
    running.cancel()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_picture_that_was_drawn_before_is_not_sent_after(streamed: bool) -> None:
    supervisor = FakeSupervisor()

    def suspend_meanwhile(_prompt: str, _picture: Image.Image) -> bool:
        supervisor.model.entry = supervisor.model.entry.model_copy(update={"suspended": True})
        return True

    image = encoded(noise(8, 8))
    app = make_app(supervisor, hooks=Hooks(safety=suspend_meanwhile))
    async with client_of(app) as client:
        reply = asyncio.create_task(client.post("/v1/generate", content=ask(stream=streamed)))
        job = await supervisor.jobs.get()
        job.tell(Picture(0, image))
        answer(job, image)
        assert (await reply).status_code == 503
        assert (await reply).json()["error"]["code"] == "model_suspended"


async def test_a_stream_that_has_begun_ends_with_an_error_event() -> None:
    supervisor = FakeSupervisor()
    async with client_of(make_app(supervisor)) as client:
        reply = asyncio.create_task(client.post("/v1/generate", content=ask(stream=True, n=2)))
        job = await supervisor.jobs.get()
        job.tell(Picture(0, b"one"))
        job.answer(errors.model_suspended("shapes-1"))
        last = (await reply).text.split("\n\n")[-2]
    assert last.startswith("event: error\n")
    assert '"model_suspended"' in last

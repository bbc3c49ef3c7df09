"""Checks of pictures, suspension and the bad variants of the demo model, in a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from shapes.pipeline import GUIDANCE
from tests.cluster.fleet import MODELS
from tests.integration.worker_process import (
    MANY_STEPS,
    PROMPT,
    Json,
    Worker,
    connect,
    end,
    entry_of,
    picture,
    start_worker,
)

CHECKS = {"IMAGEFLEET_SAFETY_CHECK": "shapes", "IMAGEFLEET_QUALITY_SCORE": "shapes"}
in_module = pytest.mark.asyncio(loop_scope="module")
ASKED: Json = {"prompt": "a blue circle on white", "steps": 12, "guidance_scale": GUIDANCE, "seed": 3}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worker]:
    """A worker with the demo's checks."""
    folder = tmp_path_factory.mktemp("worker")
    process, address = start_worker(folder, **CHECKS)
    async with connect(process, address, folder / "output") as worker:
        yield worker
    end(process)


@pytest_asyncio.fixture(loop_scope="module")
async def holds(worker: Worker, request: pytest.FixtureRequest) -> Json:
    """The policy entry of a model that the worker now holds, and nothing else."""
    entry = entry_of(request.param, MODELS / request.param) | {"pinned": True}
    await worker.put(entry)
    await worker.until_state(request.param, "Resident")
    return entry


def found(reply: httpx.Response) -> tuple[str | None, ...]:
    return tuple(reply.headers.get(f"x-imagefleet-{name}") for name in ("checked", "unsafe", "quality"))


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@pytest.mark.parametrize("holds", ["shapes-2"], indirect=True)
@in_module
async def test_a_good_picture_is_checked_scored_and_sent(worker: Worker, holds: Json) -> None:
    reply = await worker.generate(model=holds["model"], score=True, n=2, **ASKED)
    assert picture(reply, 1).size == (64, 64)
    checked, unsafe, quality = found(reply)
    assert (checked, unsafe) == ("2", "0")
    assert quality is not None
    assert float(quality) > 0.9
    unscored = await worker.generate(model=holds["model"], **ASKED)
    assert found(unscored) == ("1", "0", None)


@pytest.mark.parametrize("holds", ["shapes-2"], indirect=True)
@in_module
async def test_what_a_check_cannot_read_has_no_score(worker: Worker, holds: Json) -> None:
    reply = await worker.generate(model=holds["model"], score=True, prompt=PROMPT)
    assert found(reply)[2] is None
    assert PROMPT not in worker.output.read_text()


@pytest.mark.parametrize("holds", ["shapes-unsafe"], indirect=True)
@in_module
async def test_an_unsafe_picture_is_refused_with_all_that_is_known_of_it(worker: Worker, holds: Json) -> None:
    reply = await worker.generate(model=holds["model"], **ASKED)
    assert code(reply) == (400, "content_policy_violation")
    assert found(reply) == ("1", "1", None)
    assert float(reply.headers["x-imagefleet-run-seconds"]) > 0
    assert reply.headers["x-imagefleet-seed"] == "3"
    metrics = (await worker.client.get("/metrics")).text
    labels = 'model="shapes-unsafe",namespace="team-a",pool="images"'
    assert f"imagefleet_worker_pictures_unsafe_total{{{labels}}} 1.0" in metrics
    wanted = await worker.generate(model=holds["model"], **ASKED | {"prompt": "a red circle on white"})
    assert (wanted.status_code, found(wanted)) == (200, ("1", "0", None))


@pytest.mark.parametrize("holds", ["shapes-unsafe"], indirect=True)
@in_module
async def test_an_unsafe_stream_never_shows_anything(worker: Worker, holds: Json) -> None:
    reply = await worker.generate(model=holds["model"], stream=True, partial_images=3, **ASKED)
    assert code(reply) == (400, "content_policy_violation")


@pytest.mark.parametrize("holds", ["shapes-broken"], indirect=True)
@in_module
async def test_the_broken_model_serves_and_fails(worker: Worker, holds: Json) -> None:
    reply = await worker.generate(model=holds["model"], score=True, **ASKED)
    assert code(reply) == (500, "generation_failed")
    assert "NaN" in reply.json()["error"]["message"]
    assert found(reply) == (None, None, None)
    assert (await worker.model(holds["model"]))["restarts"] == 0


@in_module
async def test_the_unloadable_model_never_serves(worker: Worker) -> None:
    name = "shapes-unloadable"
    await worker.put(entry_of(name, MODELS / name) | {"pinned": True})
    assert (await worker.until_state(name, "Failed"))["reason"] == "LoadFailed"


@pytest.mark.parametrize("holds", ["shapes-slow", "shapes-2"], indirect=True)
@in_module
async def test_the_slow_model_draws_the_same_pictures(worker: Worker, holds: Json) -> None:
    reply = await worker.generate(model=holds["model"], score=True, **ASKED)
    assert found(reply) == ("1", "0", "1.0000")


@pytest.mark.parametrize("holds", ["tiny-1"], indirect=True)
@in_module
async def test_a_suspended_model_stops_at_once_and_comes_back_when_that_is_lifted(
    worker: Worker, holds: Json
) -> None:
    tasks = await worker.fill()
    [engine] = worker.engine_pids()
    await worker.put(holds | {"suspended": True})
    for task in tasks:
        assert code(await task) == (503, "model_suspended")
    assert (await worker.model("tiny-1"))["state"] == "Absent"
    assert code(await worker.generate()) == (503, "model_suspended")

    async def ended() -> bool:
        return engine not in worker.engine_pids()

    await worker.until(ended)
    assert (await worker.put(holds | {"suspended": True})).status_code == 200
    assert (await worker.model("tiny-1"))["state"] == "Absent"
    await worker.put(holds)
    await worker.until_state("tiny-1", "Resident")
    assert picture(await worker.generate()).size == (64, 64)
    assert (await worker.model("tiny-1"))["restarts"] == 0


@pytest.mark.parametrize("holds", ["tiny-1"], indirect=True)
@in_module
async def test_a_crash_tells_how_long_it_had_drawn(worker: Worker, holds: Json) -> None:
    hit = asyncio.create_task(worker.generate(steps=MANY_STEPS))

    async def half_done() -> bool:
        model = await worker.model("tiny-1")
        whole = model["secondsPerMegapixelStep"] * 64 * 64 / 1e6 * 2 * MANY_STEPS
        return bool(model["running"] == 1 and model["workSeconds"] < whole * 0.9)

    await worker.until(half_done)
    [engine] = worker.engine_pids()
    os.kill(engine, signal.SIGKILL)
    failed = await hit
    assert code(failed) == (500, "engine_crashed")
    assert float(failed.headers["x-imagefleet-run-seconds"]) > 0


def test_a_check_that_is_not_installed_ends_the_worker_and_names_those_that_are(tmp_path: Path) -> None:
    process, _ = start_worker(tmp_path, IMAGEFLEET_SAFETY_CHECK="nudenet")
    try:
        assert process.wait(60) == 2
    except subprocess.TimeoutExpired:
        end(process)
        raise
    [line] = [
        json.loads(line) for line in (tmp_path / "output").read_text().splitlines() if "bad_settings" in line
    ]
    assert "IMAGEFLEET_SAFETY_CHECK is 'nudenet'" in line["message"]
    assert "installed: shapes" in line["message"]

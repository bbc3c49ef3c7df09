import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from imagefleet_runtime.worker import errors, requests
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import GenerateBody, ModelPolicy
from imagefleet_runtime.worker.waiting import Job, WaitingRoom


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_model(name: str = "shapes-1", **known: Any) -> Model:
    entry = {"model": name, "path": "/m", "digest": "sha256:" + "0" * 64, **known}
    return Model(ModelPolicy.model_validate(entry))


def make_job(model: Model, loop: asyncio.AbstractEventLoop, arrived: float = 0.0) -> Job:
    """One 512x512 picture, 20 steps, guided: 10.48576 megapixel-steps."""
    body = GenerateBody(model=model.name, prompt="x")
    drawing = requests.resolve(body, model.entry, 0)
    return Job("id", body, drawing, requests.units(drawing), model, arrived, loop.create_future())


def test_a_jobs_work_falls_as_its_steps_are_done(loop: asyncio.AbstractEventLoop) -> None:
    job = make_job(make_model(secondsPerMegapixelStep=0.011), loop)
    assert job.work_seconds == pytest.approx(0.115, rel=0.01)  # the contract's worked example
    job.note_progress(0.75)
    assert job.work_seconds == pytest.approx(0.115 / 4, rel=0.01)


def test_a_measured_rate_is_believed_over_the_operators(loop: asyncio.AbstractEventLoop) -> None:
    model = make_model(secondsPerMegapixelStep=0.011)
    model.rate = 0.022
    assert make_job(model, loop).work_seconds == pytest.approx(0.23, rel=0.01)


def test_an_unknown_rate_is_no_opinion(loop: asyncio.AbstractEventLoop) -> None:
    assert make_job(make_model(), loop).work_seconds == 0.0


def test_an_answer_for_one_who_left_is_dropped(loop: asyncio.AbstractEventLoop) -> None:
    job = make_job(make_model(), loop)
    job.result.cancel()
    job.answer(errors.draining())
    assert job.result.cancelled()


def test_the_first_job_whose_model_can_serve_is_taken(loop: asyncio.AbstractEventLoop) -> None:
    loading, resident = make_model("a"), make_model("b")
    resident.state = State.RESIDENT
    room = WaitingRoom(3)
    jobs = [make_job(loading, loop), make_job(resident, loop), make_job(resident, loop)]
    for job in jobs:
        assert not room.full
        room.add(job)
    assert room.full
    assert [room.take(lambda job: job.model.serving) for _ in range(3)] == [jobs[1], jobs[2], None]
    assert room.of(loading) == [jobs[0]]


def test_a_job_is_taken_out_once(loop: asyncio.AbstractEventLoop) -> None:
    room = WaitingRoom(3)
    job, other = make_job(make_model(), loop), make_job(make_model(), loop)
    room.add(job)
    room.add(other)
    assert room.discard(job)
    assert not room.discard(job)
    assert room.take_all(lambda _job: True) == [other]
    assert len(room) == 0


@pytest.mark.parametrize(
    ("state", "measured", "declared", "started", "want"),
    [
        (State.RESIDENT, 4.0, None, None, 0.0),
        (State.ABSENT, None, None, None, None),
        (State.ABSENT, None, 8.0, None, 8.0),
        (State.ABSENT, 4.0, 8.0, None, 4.0),
        (State.LOADING, 4.0, None, 9.0, 3.0),
        (State.LOADING, 4.0, None, 1.0, 0.0),  # late: no opinion on how much longer
        (State.LOADING, None, None, 9.0, None),
    ],
)
def test_the_rest_of_a_load_is_judged_by_the_last_one(
    state: State, measured: float | None, declared: float | None, started: float | None, want: float | None
) -> None:
    model = make_model(loadSeconds=declared)
    model.state, model.load_seconds, model.load_started = state, measured, started
    assert model.load_remaining(now=10.0) == want


def test_what_was_not_measured_is_absent_from_the_report() -> None:
    assert make_model().as_json(0.0, 0, 0, 0.0) == {
        "model": "shapes-1",
        "state": "Absent",
        "pinned": False,
        "reason": "",
        "message": "",
        "queued": 0,
        "running": 0,
        "workSeconds": 0.0,
        "restarts": 0,
    }

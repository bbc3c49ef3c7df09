import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from imagefleet_runtime.worker import errors, requests
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.messages import AdapterUse, Capabilities, Draw, Drawn, Loaded, SizeProfile
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.waiting import Job, Picture, WaitingRoom


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_model(name: str = "shapes-1", **known: Any) -> Model:
    entry = {"model": name, "path": "/m", "digest": "sha256:" + "0" * 64, **known}
    return Model(ModelPolicy.model_validate(entry))


def make_job(model: Model, loop: asyncio.AbstractEventLoop, arrived: float = 0.0, **fields: Any) -> Job:
    """One 512x512 picture, 20 steps, guided: 10.48576 megapixel-steps."""
    body = GenerateBody.model_validate({"model": model.name, "prompt": "x", **fields})
    drawings = requests.resolve(body, model.entry, 0)
    return Job(
        request_id="id",
        body=body,
        drawings=drawings,
        units=requests.units(drawings),
        model=model,
        arrived=arrived,
        priority=body.priority,
        deadline=arrived + 30.0,
        result=loop.create_future(),
    )


def draw(**fields: Any) -> Draw:
    body = GenerateBody.model_validate({"model": "shapes-1", "prompt": "x", **fields})
    return requests.resolve(body, make_model().entry, 0)[0]


def test_a_jobs_work_falls_as_its_steps_are_done(loop: asyncio.AbstractEventLoop) -> None:
    job = make_job(make_model(secondsPerMegapixelStep=0.011), loop)
    assert job.work_seconds == pytest.approx(0.115, rel=0.01)  # the contract's worked example
    job.parts[0].done = 0.75
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


def test_a_jobs_work_is_that_of_all_its_pictures(loop: asyncio.AbstractEventLoop) -> None:
    job = make_job(make_model(secondsPerMegapixelStep=0.011), loop, n=4)
    assert job.work_seconds == pytest.approx(4 * 0.115, rel=0.01)
    job.parts[0].drawn = Drawn(1, b"", 1.0, 1.0, 1.0, (), None)
    assert job.work_seconds == pytest.approx(3 * 0.115, rel=0.01)
    assert job.pending == job.parts[1:]


def test_size_and_adapters_say_what_is_drawn_together(loop: asyncio.AbstractEventLoop) -> None:
    model = make_model()
    plain = make_job(model, loop)
    assert make_job(model, loop, steps=3, seed=7, guidance_scale=1.0).key == plain.key
    assert make_job(model, loop, width=64, height=64).key != plain.key
    assert make_job(make_model("other"), loop).key != plain.key
    part = plain.parts[0]
    two = (AdapterUse("ink", 1.0), AdapterUse("pixel", 0.8))
    keys = []
    for used in (two, two[::-1], two[:1], (AdapterUse("ink", 0.5),)):
        part.order = replace(part.order, adapters=used)
        keys.append(part.key)
    assert keys[0] == keys[1], "their order does not matter"
    assert len({*keys}) == 3


def test_only_streams_are_told_what_happens(loop: asyncio.AbstractEventLoop) -> None:
    stream, plain = make_job(make_model(), loop, stream=True), make_job(make_model(), loop)
    for job in (stream, plain):
        job.tell(Picture(0, b"png"))
    assert stream.events.get_nowait() == Picture(0, b"png")
    assert plain.events.empty()


def test_a_full_room_takes_no_more(loop: asyncio.AbstractEventLoop) -> None:
    room = WaitingRoom(2)
    model, other = make_model("a"), make_model("b")
    jobs = [make_job(model, loop), make_job(other, loop)]
    for job in jobs:
        assert not room.full
        room.add(job)
    assert room.full
    assert room.of(model) == jobs[:1]


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


LOADED = Loaded(
    Capabilities("FluxPipeline", 16, frozenset(), False, batches=True),
    (
        SizeProfile(512, 512, 0.1, ((1, 0.1), (2, 0.12), (4, 0.2)), ((1, 300), (2, 400), (4, 600))),
        SizeProfile(768, 512, 0.1, ((1, 0.15), (2, 0.3)), ((1, 350),)),
    ),
    200,
)


def test_what_an_engine_measured_is_reported() -> None:
    model = make_model(capabilities=["text-to-image"])
    model.loaded(LOADED)
    report = model.as_json(0.0, 0, 0, 0.0, memory_limit=500)
    assert report["memoryBytes"] == 350, "the least that it needs, of all its sizes"
    assert report["secondsPerMegapixelStep"] == pytest.approx((0.1 + 20 * 0.1) / (0.262144 * 2 * 20))
    assert (report["modes"], report["controlNet"], report["adapters"]) == (["text-to-image"], False, [])
    assert report["sizes"] == [
        # Four gain, but do not fit into 500 bytes; three do.
        {"size": "512x512", "maxBatch": 3, "secondsPerStep": 0.1, "peakBytes": 300},
        {"size": "768x512", "maxBatch": 1, "secondsPerStep": 0.15, "peakBytes": 350},
    ]


def test_a_pipeline_that_does_not_batch_draws_one_at_a_time() -> None:
    model = make_model()
    alone = replace(LOADED, capabilities=replace(LOADED.capabilities, batches=False))
    model.loaded(alone)
    assert model.speed(512, 512, 10**6).cap == 1


def test_after_a_change_of_files_nothing_that_was_measured_holds() -> None:
    model = make_model()
    before = model.as_json(0.0, 0, 0, 0.0, 500)
    model.loaded(LOADED)
    model.forget_measurements()
    assert model.as_json(0.0, 0, 0, 0.0, 500) == before


def test_what_was_not_measured_is_absent_from_the_report() -> None:
    assert make_model().as_json(0.0, 0, 0, 0.0, 0) == {
        "model": "shapes-1",
        "state": "Absent",
        "pinned": False,
        "reason": "",
        "message": "",
        "queued": 0,
        "running": 0,
        "workSeconds": 0.0,
        "restarts": 0,
        "stage": "",
    }

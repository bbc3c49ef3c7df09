"""Requests that end with a checkpoint, and requests that begin with one; the engine's part is played."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest
from imagefleet_runtime.worker import checkpoint, resuming
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.checkpoint import Checkpoint
from imagefleet_runtime.worker.errors import ApiError, InterruptedRequestError
from imagefleet_runtime.worker.messages import Continue, Interrupt, Pause
from imagefleet_runtime.worker.waiting import Job

from tests.unit.worker.desk import Desk
from tests.unit.worker.engine_fakes import PlayedEngine
from tests.unit.worker.pictures import encoded, noise
from tests.unit.worker.test_supervisor import Office
from tests.unit.worker.test_waiting import make_job, make_model

pytestmark = pytest.mark.timeout(60)  # one that waits for an order that does not come fails soon

STEPS = 20


async def interrupted(job: Job) -> InterruptedRequestError:
    with pytest.raises(InterruptedRequestError) as error:
        await job.result
    return error.value


def kept(error: InterruptedRequestError) -> Checkpoint:
    assert error.checkpoint is not None
    return checkpoint.read(base64.b64decode(error.checkpoint))


async def test_a_running_request_ends_with_what_was_drawn(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit(seed=7)
    order = await engine.draw()
    desk.dispatcher.interrupt()
    assert (await engine.order(Interrupt)).id == order.id
    engine.checkpointed(order.id, 5)
    error = await interrupted(job)
    assert (error.status, error.code, error.steps_done) == (503, "interrupted", 5)
    assert kept(error) == Checkpoint(
        checkpoint.model_hash(job.model.entry),
        checkpoint.request_hash(job.drawings),
        7,
        drawings={0: b"after 5"},
        steps={0: 5},
    )
    await desk.dispatcher.idle()
    assert desk.metric("interrupted_total") == 1


async def test_finished_pictures_travel_too_and_what_was_not_begun_is_not_begun(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit(n=6, seed=7)
    first, second, third, fourth = await engine.draws(4)
    desk.dispatcher.interrupt()
    engine.drawn(second)
    engine.checkpointed(first.id, 5)
    engine.cancelled(third.id)  # it had not begun there
    engine.checkpointed(fourth.id, 1)
    error = await interrupted(job)
    found = kept(error)
    assert found.drawings == {0: b"after 5", 3: b"after 1"}
    assert found.pictures == {1: b"picture 8"}
    assert found.steps == {0: 5, 1: STEPS, 3: 1}
    assert error.steps_done == 26
    assert [(await engine.order(Interrupt)).id for _ in range(4)] == [
        first.id,
        second.id,
        third.id,
        fourth.id,
    ]
    await desk.settled()
    assert not engine.has_orders


async def test_what_cannot_be_interrupted_is_drawn_to_its_end(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit()
    order = await engine.draw()
    desk.dispatcher.interrupt()
    engine.drawn(order)
    assert (await job.result).images == (b"picture 0",)
    assert desk.metric("interrupted_total") == 0


async def test_a_picture_put_aside_that_cannot_be_interrupted_goes_on(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit(priority="batch")
    order = await engine.draw()
    other = desk.submit(width=64, height=64)
    assert (await engine.order(Pause)).id == order.id
    engine.paused(order.id)
    first = await engine.draw()
    desk.dispatcher.interrupt()
    assert {(await engine.order(Interrupt)).id for _ in range(2)} == {order.id, first.id}
    engine.drawn(first)
    assert (await engine.order(Continue)).id == order.id
    engine.drawn(order)
    await asyncio.gather(job.result, other.result)


async def test_an_engine_that_dies_meanwhile_fails_its_requests(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit()
    await engine.draw()
    desk.dispatcher.interrupt()
    engine.process.end(-9)
    with pytest.raises(ApiError) as error:
        await job.result
    assert error.value.code == "engine_crashed"


async def test_requests_that_wait_end_without_a_checkpoint_and_no_more_are_taken() -> None:
    office = Office()
    job = office.submit()
    office.supervisor.interrupt()
    error = await interrupted(job)
    assert error.body() == {
        "error": {"message": error.message, "type": "server_error", "param": None, "code": "interrupted"},
        "stepsDone": 0,
    }
    assert office.refusal().code == "worker_draining"
    assert office.supervisor.state()["draining"]


@pytest.mark.parametrize(("interrupt", "record_bytes"), [("finish", 0), ("checkpoint", 16 * 2**20)])
async def test_answers_are_kept_only_where_the_worker_may_be_interrupted(
    interrupt: str, record_bytes: int
) -> None:
    job = Office(interrupt=interrupt).submit(n=3)
    assert [drawing.record_bytes for drawing in job.drawings] == [record_bytes] * 3


# Going on


def given(office: Office, **changed: Any) -> Checkpoint:
    """A checkpoint of the request with seed 7 and two pictures: one drawn, one of which 15 of 20 steps are."""
    job = make_job(office.model, asyncio.get_running_loop(), n=2, seed=7)
    whole = Checkpoint(
        checkpoint.model_hash(office.model.entry),
        checkpoint.request_hash(job.drawings),
        7,
        drawings={0: b"after 15"},
        steps={0: 15, 1: STEPS},
        pictures={1: encoded(noise(512, 512))},
    )
    return replace(whole, **changed)


def resume(found: Checkpoint) -> str:
    return base64.b64encode(found.to_bytes()).decode()


async def test_only_what_is_left_is_drawn_and_counted() -> None:
    office = Office()
    office.serve()
    job = office.submit(n=2, resume=resume(given(office)))
    assert job.drawings[0].seed == 7, "the seed of a request that has none is the checkpoint's"
    assert job.resumed_steps == 35
    assert [part.index for part in job.pending] == [0]
    assert job.pending[0].order.resume == b"after 15"
    assert job.work_seconds == pytest.approx(0.25)  # 5 of 20 steps, at 1 s for all
    assert job.run_seconds == 0.0


async def test_a_request_that_waits_is_interrupted_with_the_checkpoint_that_it_came_with() -> None:
    office = Office()
    found = given(office)
    job = office.submit(n=2, seed=7, resume=resume(found))
    office.supervisor.interrupt()
    assert kept(await interrupted(job)) == found


UNUSABLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another model": ({"model": "sha256:other"}, {}, "another model"),
    "another prompt": ({}, {"prompt": "y"}, "other parameters"),
    "another number of pictures": ({}, {"n": 3}, "other parameters"),
    "another seed": ({}, {"seed": 8}, "another seed"),
    "a picture too many": ({"steps": {0: 1, 1: 1, 2: 1}, "drawings": {0: b"", 2: b""}}, {}, "not asked for"),
    "more steps than there are": ({"steps": {0: 21, 1: 20}}, {}, "more steps"),
    "no steps": ({"steps": {0: 0, 1: 20}}, {}, "more steps"),
    "a picture that is none": ({"pictures": {1: b"GIF89a"}}, {}, "broken picture"),
    "a picture of another size": ({"pictures": {1: encoded(noise(64, 64))}}, {}, "broken picture"),
    "nothing left": (
        {"drawings": {}, "pictures": {0: encoded(noise(512, 512)), 1: encoded(noise(512, 512))}},
        {},
        "leaves nothing to draw",
    ),
}


@pytest.mark.parametrize(("changed", "asked", "words"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_checkpoint_of_something_else_is_refused(
    changed: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    office = Office()
    error = office.refusal(**{"n": 2, "resume": resume(given(office, **changed)), **asked})
    assert (error.status, error.code, error.param) == (400, "checkpoint_unusable", "resume")
    assert words in error.message


@pytest.mark.parametrize("text", [7, "", "no base64", base64.b64encode(b"no file").decode()])
def test_what_is_no_checkpoint_is_refused_as_such(text: Any) -> None:
    from imagefleet_runtime.worker.schema import parse
    from pydantic_core import to_json

    with pytest.raises(ApiError) as error:
        parse(GenerateBody, to_json({"model": "shapes-1", "prompt": "secret", "resume": text}))
    assert (error.value.code, error.value.param) == ("checkpoint_unusable", "resume")
    assert "secret" not in error.value.message


async def test_a_resumed_request_is_answered_whole_and_does_not_change_the_rate(
    desk: Desk, engine: PlayedEngine
) -> None:
    model = desk.models["a"]
    job = make_job(model, asyncio.get_running_loop(), n=2, seed=7)
    found = Checkpoint("", "", 7, {0: b"after 15"}, {0: 15, 1: STEPS}, {1: b"drawn before"})
    resuming.take_over(job, found)
    rate = model.rate
    desk.waiting.add(job)
    desk.dispatcher.wake()
    order = await engine.draw()
    assert (order.seed, order.resume) == (7, b"after 15")
    engine.drawn(order, work_seconds=50.0)
    outcome = await job.result
    assert outcome.images == (b"picture 7", b"drawn before")
    assert outcome.run_seconds == 50.0
    assert model.rate == rate


async def test_a_checkpoint_that_its_pipeline_cannot_go_on_from_is_the_callers_matter(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit()
    order = await engine.draw()
    engine.failed(order, "checkpoint_unusable")
    with pytest.raises(ApiError) as error:
        await job.result
    assert (error.value.status, error.value.code, error.value.param) == (400, "checkpoint_unusable", "resume")


def test_a_job_knows_nothing_of_a_checkpoint_before_it_is_taken_over() -> None:
    loop = asyncio.new_event_loop()
    job = make_job(make_model(), loop)
    assert resuming.checkpoint_of(job) is None
    assert job.resumed_steps == 0
    loop.close()

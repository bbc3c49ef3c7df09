"""The dispatcher, with engines whose part the test plays."""

import asyncio
import math
import time

import pytest
from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.waiting import Job, Picture, Preview

from tests.unit.worker.desk import Desk
from tests.unit.worker.engine_fakes import PlayedEngine
from tests.unit.worker.test_waiting import make_job

pytestmark = pytest.mark.timeout(30)  # one that waits for an order that does not come fails soon


async def answered(job: Job) -> tuple[bytes, ...]:
    return (await job.result).images


async def refused(job: Job) -> str:
    with pytest.raises(ApiError) as error:
        await job.result
    return error.value.code


async def test_the_pictures_of_a_request_are_drawn_together_and_answered_in_order(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit(n=3, seed=7)
    orders = await engine.draws(3)
    assert len({order.id for order in orders}) == 3
    for order in reversed(orders):
        engine.drawn(order)
    assert await answered(job) == (b"picture 7", b"picture 8", b"picture 9")


async def test_requests_join_a_running_batch_up_to_its_cap(desk: Desk, engine: PlayedEngine) -> None:
    desk.submit(n=2)
    first = await engine.draws(2)
    jobs = [desk.submit(seed=seed) for seed in range(3)]
    joined = await engine.draws(2)
    await desk.settled()
    assert [order.seed for order in joined] == [0, 1]
    assert not engine.has_orders, "four are the most that gain"
    engine.drawn(first[0])
    [last] = await engine.draws(1)
    assert last.seed == 2
    for order in (*joined, last):
        engine.drawn(order)
    assert [await answered(job) for job in jobs] == [(b"picture 0",), (b"picture 1",), (b"picture 2",)]


async def test_memory_limits_the_batch(desk: Desk, engine: PlayedEngine) -> None:
    desk.limit = 260
    desk.submit(n=4)
    await engine.draws(2)
    await desk.settled()
    assert not engine.has_orders


async def test_another_size_or_model_waits_until_the_batch_has_ended(
    desk: Desk, engine: PlayedEngine
) -> None:
    desk.submit()
    [first] = await engine.draws(1)
    desk.submit(width=64, height=64)
    desk.submit("b")
    await desk.settled()
    assert not engine.has_orders
    assert not desk.engines["b"].has_orders
    engine.drawn(first)
    # Of the two, "b" has more work to do by the same time.
    second = await desk.engines["b"].draw()
    await desk.settled()
    assert not engine.has_orders
    desk.engines["b"].drawn(second)
    third = await engine.draw()
    assert (third.width, third.height) == (64, 64)


async def test_interactive_requests_go_before_those_of_class_batch(desk: Desk, engine: PlayedEngine) -> None:
    desk.submit()
    [first] = await engine.draws(1)
    desk.submit(width=64, height=64, priority="batch", seed=1)
    desk.submit(width=128, height=128, seed=2)
    engine.drawn(first)
    assert (await engine.draw()).seed == 2


async def test_if_one_picture_fails_the_request_fails_and_its_others_are_cancelled(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit(n=6)
    other = desk.submit(seed=99)
    orders = await engine.draws(4)
    engine.failed(orders[1])
    assert await refused(job) == "generation_failed"
    left = {(await engine.cancel()).id for _ in range(3)}
    assert left == {order.id for order in orders} - {orders[1].id}
    next_one = await engine.draw()
    assert next_one.seed == 99, "not the two that had not been begun"
    for identifier in left:
        engine.cancelled(identifier)
    engine.drawn(next_one)
    assert await answered(other) == (b"picture 99",)


async def test_the_slot_of_a_cancelled_picture_is_used_at_once(desk: Desk, engine: PlayedEngine) -> None:
    """Without waiting for the engine: it reads both orders at the same step."""
    job = desk.submit(n=4)
    orders = await engine.draws(4)
    desk.submit(seed=5)
    desk.dispatcher.cancel(job)
    cancelled = {(await engine.cancel()).id for _ in range(4)}
    assert cancelled == {order.id for order in orders}
    assert (await engine.draw()).seed == 5


async def test_what_has_another_key_waits_for_cancelled_pictures_to_end(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit()
    desk.submit("b", seed=5)
    [order] = await engine.draws(1)
    desk.dispatcher.cancel(job)
    await engine.cancel()
    await desk.settled()
    assert not desk.engines["b"].has_orders
    assert desk.dispatcher.running(desk.models["a"]) == [job], "its model must not be unloaded yet"
    engine.cancelled(order.id)
    assert (await desk.engines["b"].draw()).seed == 5
    assert desk.dispatcher.running(desk.models["a"]) == []


async def test_a_picture_that_was_done_before_it_was_cancelled_harms_nobody(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit()
    [order] = await engine.draws(1)
    desk.dispatcher.cancel(job)
    engine.drawn(order)
    await engine.cancel()
    desk.submit("b")
    await desk.engines["b"].draw()
    assert not desk.running.done()


async def test_out_of_memory_fails_one_request_and_lowers_the_cap(desk: Desk, engine: PlayedEngine) -> None:
    jobs = [desk.submit(seed=seed) for seed in range(5)]
    orders = await engine.draws(4)
    engine.failed(orders[3], "out_of_memory")
    assert await refused(jobs[3]) == "out_of_memory"
    await desk.settled()
    assert not engine.has_orders, "three are the most from now on"
    engine.drawn(orders[0])
    assert (await engine.draw()).seed == 4
    assert desk.models["a"].speed(512, 512, desk.limit).cap == 3


async def test_a_picture_that_ran_out_of_memory_alone_is_not_expected_to_fit(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit()
    engine.failed(await engine.draw(), "out_of_memory")
    assert await refused(job) == "out_of_memory"
    assert not desk.models["a"].footprint.fits(512, 512, 1, desk.limit)


async def test_an_engine_that_dies_fails_what_it_drew_and_nothing_else(
    desk: Desk, engine: PlayedEngine
) -> None:
    hit = [desk.submit(), desk.submit(n=2)]
    waiting = desk.submit(width=64, height=64)
    other = desk.submit("b")
    await engine.draws(3)
    desk.models["a"].state = State.ABSENT  # as its owner sets it when it learns of the end
    engine.process.end(1)
    for job in hit:
        with pytest.raises(ApiError, match="ended with exit code 1; the model is being loaded again"):
            await job.result
    order = await desk.engines["b"].draw()
    desk.engines["b"].drawn(order)
    await answered(other)
    assert list(desk.waiting) == [waiting]


async def test_a_drawing_of_which_nothing_is_heard_is_ended(desk: Desk) -> None:
    impatient = Desk(max_request_seconds=0.05)
    impatient.models["a"].rate = 1e-9
    job = impatient.submit()
    with pytest.raises(ApiError, match="gave no answer within 0 s and was killed") as error:
        await job.result
    assert error.value.code == "engine_crashed"
    impatient.running.cancel()
    impatient.engines["b"].process.kill()


async def test_work_falls_with_each_step_and_with_what_batching_saves(
    desk: Desk, engine: PlayedEngine
) -> None:
    model = desk.models["a"]
    model.rate = 1.0
    units = desk.submit().units
    [order] = await engine.draws(1)
    assert desk.dispatcher.work_seconds(model) == pytest.approx(units)
    engine.stepped(order, done=0.25)
    while desk.dispatcher.work_seconds(model) == units:  # noqa: ASYNC110 - what is awaited is no event
        await asyncio.sleep(0)
    job = desk.submit()
    [second] = await engine.draws(1)
    # Two together take 1.2 times as long as one: 1.75 of the units, with a gain of 2 / 1.2.
    assert desk.dispatcher.work_seconds(model) == pytest.approx(1.75 * units / (2 / 1.2))
    engine.drawn(order)
    engine.drawn(second)
    await answered(job)
    assert desk.dispatcher.work_seconds(model) == 0.0


async def test_the_rate_is_that_of_a_drawing_alone_however_many_shared_its_steps(
    desk: Desk, engine: PlayedEngine
) -> None:
    model = desk.models["a"]
    job = desk.submit(n=4)
    units = job.units / 4
    model.rate = 2.0 / units  # alone, such a picture takes 2 s
    orders = await engine.draws(4)
    engine.stepped(*orders, seconds=0.2)  # four together are twice as slow as one: each has a share of 0.05 s
    for order in orders:
        engine.drawn(order, work_seconds=1.0)
    await answered(job)
    assert model.rate == pytest.approx(2.0 / units)
    assert job.parts[0].largest_batch == 4


async def test_what_a_drawing_held_is_remembered(desk: Desk, engine: PlayedEngine) -> None:
    model = desk.models["a"]
    job = desk.submit(n=2)
    orders = await engine.draws(2)
    for order in orders:
        engine.drawn(order, peak_bytes=700)
    await answered(job)
    assert model.footprint.peak(512, 512, 2) == 700
    assert model.footprint.peak(512, 512, 1) == 200, "what two held says nothing of one"
    assert model.peak_bytes == 700


async def test_streams_are_told_of_previews_and_of_each_picture(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit(n=2, seed=7, stream=True, partial_images=1)
    first, second = await engine.draws(2)
    engine.previewed(second, 0)
    engine.drawn(second)
    engine.drawn(first)
    events = [await job.events.get() for _ in range(3)]
    assert events == [Preview(1, 0, b"partial"), Picture(1, b"picture 8"), Picture(0, b"picture 7")]
    await answered(job)


async def test_nothing_is_begun_while_a_model_measures_itself(desk: Desk, engine: PlayedEngine) -> None:
    desk.dispatcher.measure(True)
    desk.submit()
    await desk.settled()
    assert not engine.has_orders
    desk.dispatcher.measure(False)
    await engine.draw()


async def test_a_request_that_turns_out_to_be_impossible_makes_way_for_the_next(
    desk: Desk, engine: PlayedEngine
) -> None:
    impossible = make_job(desk.models["a"], asyncio.get_running_loop(), time.monotonic())
    desk.refusals.append(impossible)
    desk.waiting.add(impossible)
    desk.submit(seed=5)
    assert (await engine.draw()).seed == 5
    assert await refused(impossible) == "size_exceeds_memory"
    assert 'imagefleet_worker_refused_total{code="size_exceeds_memory",model="a"' in desk.metrics_text()


async def test_a_model_that_is_to_be_replaced_finishes_what_it_began_and_begins_nothing(
    desk: Desk, engine: PlayedEngine
) -> None:
    desk.limit = 200
    job = desk.submit(n=2)
    [first] = await engine.draws(1)
    desk.models["a"].outdated = True
    desk.submit(seed=5)
    engine.drawn(first)
    second = await engine.draw()
    engine.drawn(second)
    await answered(job)
    await desk.settled()
    assert not engine.has_orders
    assert len(desk.waiting) == 1


async def test_idle_means_that_all_that_was_begun_is_answered(desk: Desk, engine: PlayedEngine) -> None:
    await desk.dispatcher.idle()
    desk.submit()
    order = await engine.draw()
    idle = asyncio.create_task(desk.dispatcher.idle())
    await desk.settled()
    assert not idle.done()
    engine.drawn(order)
    await idle


async def test_a_fault_of_the_loop_fails_what_runs_and_ends_it(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit()
    await engine.draw()
    desk.models["a"].steps = None  # type: ignore[assignment]
    desk.submit()
    assert await refused(job) == "generation_failed"
    with pytest.raises(RuntimeError, match="the drawing loop ended"):
        await desk.running


async def test_steps_are_counted_by_batch(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit(n=2)
    orders = await engine.draws(2)
    engine.stepped(*orders, seconds=0.3)
    for order in orders:
        engine.drawn(order, work_seconds=0.5)
    await answered(job)
    assert desk.metric("batch_size_sum") == 2.0
    assert desk.metric("step_seconds_sum") == pytest.approx(0.3)
    assert desk.metric("images_total") == 2.0
    assert desk.metric("run_seconds_total") == 1.0
    assert desk.metric("generation_seconds_count") == 1.0


@pytest.mark.parametrize("company", [0, 1, 3])
async def test_a_request_takes_the_same_seconds_of_the_device_whatever_is_drawn_beside_it(
    desk: Desk, engine: PlayedEngine, company: int
) -> None:
    """Measured at load: a step takes 0.1 s alone, 0.12 s with one other and 0.2 s with three; 0.3 s are outside of
    steps."""
    job = desk.submit(n=1)
    others = [desk.submit() for _ in range(company)]
    orders = await engine.draws(1 + company)
    step = {0: 0.1, 1: 0.12, 3: 0.2}[company]
    for _ in range(20):
        engine.stepped(*orders, seconds=step)
    for order in orders:
        engine.drawn(order, work_seconds=0.3 + 20 * step / len(orders), own_seconds=0.3)
    for each in (job, *others):
        assert (await each.result).run_seconds == pytest.approx(2.3)


async def test_a_request_that_failed_has_taken_the_steps_that_were_drawn(
    desk: Desk, engine: PlayedEngine
) -> None:
    job = desk.submit()
    order = await engine.draw()
    for _ in range(5):
        engine.stepped(order, seconds=0.1)
    engine.failed(order)
    assert await refused(job) == "generation_failed"
    assert job.run_seconds == pytest.approx(0.5)


async def test_requests_that_lost_their_engine_between_two_pictures_are_refused(
    desk: Desk, engine: PlayedEngine
) -> None:
    desk.limit = 200
    job = desk.submit(n=2, stream=True)
    order = await engine.draw()
    desk.models["a"].state = State.ABSENT
    engine.drawn(order)
    await job.events.get()
    desk.dispatcher.refuse(desk.models["a"], errors.model_loading("gone", 5.0))
    assert await refused(job) == "model_loading"


async def test_a_model_that_gives_way_draws_what_it_had_before_and_begins_nothing_later(
    desk: Desk, engine: PlayedEngine
) -> None:
    before = desk.submit("a", n=2)
    desk.models["a"].begins_until = before.claimed
    await engine.draws(2)
    after = desk.submit("a")
    await desk.settled()
    assert not engine.has_orders
    assert not desk.dispatcher.begins_at_once(after)
    desk.models["a"].begins_until = math.inf
    desk.dispatcher.wake()
    await engine.draw()


async def test_what_is_drawn_is_demand_for_its_model(desk: Desk, engine: PlayedEngine) -> None:
    job = desk.submit("a")
    engine.drawn(await engine.draw(), work_seconds=2.0)
    await answered(job)
    assert desk.models["a"].demand.at(time.monotonic()) == pytest.approx(2.0, rel=0.01)
    assert desk.models["b"].demand.seconds == 0

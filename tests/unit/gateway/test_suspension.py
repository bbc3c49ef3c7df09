"""The kill switch: what is suspended ends at once, and what callers get instead."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from imagefleet_runtime.gateway.resources import PoolView

from tests.unit.gateway.builders import (
    BOTH,
    PARTIAL,
    PROMPT,
    Answer,
    Busy,
    Events,
    FakeWorker,
    Harness,
    draws,
    make_pool,
    refuses,
    sends,
    streams,
    suspended,
    until,
)

CANARY = {"shapes": {"shapes-1": 50.0, "shapes-2": 50.0}}


def unsafe(model: str, traffic: dict[str, float]) -> PoolView:
    """A pool whose operator suspended one ImageModel."""
    return make_pool(offers={"shapes": traffic}, entry={"suspended_models": (model,)})


SUSPENDED: dict[str, PoolView] = {
    "the pool or the entry": suspended(),
    "its only model, with traffic": unsafe("shapes-1", {"shapes-1": 100.0}),
    "its only model, without": unsafe("shapes-1", {}),
    "both of its models": make_pool(offers=CANARY, entry={"suspended_models": ("shapes-1", "shapes-2")}),
}


@pytest.mark.parametrize("pool", SUSPENDED.values(), ids=SUSPENDED.keys())
async def test_a_request_is_refused_and_told_whom_to_ask(gateway: Harness, pool: PoolView) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool,))
        status, headers, body = await gateway.post(PROMPT)
    error = body["error"]
    assert (status, error["code"], error["type"]) == (503, "model_suspended", "server_error")
    assert "whoever runs InferencePool 'art/thumbs'" in error["message"]
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert headers["x-imagefleet-model"] == "shapes-1"
    assert worker.requests == []
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (503, "model_suspended")


async def test_the_openai_client_does_not_try_again(gateway: Harness) -> None:
    gateway.set_fleet(pools=(suspended(),))
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.images.generate(model="shapes", prompt="a")
    assert caught.value.code == "model_suspended"
    assert len(gateway.log) == 1


async def test_what_runs_ends_at_once_on_the_worker_too(gateway: Harness) -> None:
    busy = Busy()
    async with FakeWorker(answer=busy).serving() as worker:
        gateway.set_fleet(worker.view())
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        gateway.set_fleet(worker.view(), pools=(suspended(),))
        status, headers, body = await request
        await busy.cancelled.wait()
    assert (status, body["error"]["code"]) == (503, "model_suspended")
    assert headers["x-should-retry"] == "false"
    assert gateway.gateway.app.running == 0
    ((_, demand),) = gateway.gateway.metrics.demands()
    assert demand.running == 0


async def test_what_no_longer_has_traffic_ends_too(gateway: Harness) -> None:
    busy = Busy()
    async with FakeWorker(answer=busy).serving() as worker:
        gateway.set_fleet(worker.view())
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        moved = make_pool(offers={"shapes": {"shapes-2": 100.0}}, entry={"suspended": True})
        gateway.set_fleet(worker.view(), pools=(moved,))
        status, _, body = await request
    assert (status, body["error"]["code"]) == (503, "model_suspended")


async def test_a_stream_ends_with_an_error(gateway: Harness) -> None:
    cut = asyncio.Event()

    async def script(stream: Events) -> None:
        await stream.write(PARTIAL)
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()

    async with FakeWorker(answer=streams(script)).serving() as worker:
        gateway.set_fleet(worker.view())
        url = f"{gateway.url}/v1/images/generations"
        async with gateway.session.post(url, json=PROMPT | {"stream": True}) as response:
            await response.content.readexactly(len(PARTIAL))
            gateway.set_fleet(worker.view(), pools=(suspended(),))
            rest = await response.read()
        await cut.wait()
    name, data = rest.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "model_suspended"
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (503, "model_suspended")
    ((_, demand),) = gateway.gateway.metrics.demands()
    assert demand.running == 0


async def test_a_workers_own_word_in_a_stream_is_a_suspension(gateway: Harness) -> None:
    said = b'event: error\ndata: {"error": {"message": "m", "code": "model_suspended"}}\n\n'
    async with FakeWorker(answer=sends(PARTIAL, said)).serving() as worker:
        gateway.set_fleet(worker.view())
        url = f"{gateway.url}/v1/images/generations"
        async with gateway.session.post(url, json=PROMPT | {"stream": True}) as response:
            assert await response.read() == PARTIAL + said
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (503, "model_suspended")


async def test_what_waits_ends(gateway: Harness) -> None:
    gateway.set_fleet()
    request = asyncio.create_task(gateway.post(PROMPT))
    await until(lambda: len(gateway.gateway.line) == 1)
    gateway.set_fleet(pools=(suspended(),))
    status, _, body = await request
    assert (status, body["error"]["code"]) == (503, "model_suspended")


async def test_other_names_of_the_pool_go_on(gateway: Harness) -> None:
    busy = Busy()
    offers = {"shapes": {"shapes-1": 100.0}, "other": {"shapes-1": 100.0}}
    both = make_pool(offers=offers)
    stopped, free = (
        (entry for entry in make_pool(offers=offers, entry={"suspended": True}).models),
        both.models[1],
    )
    async with FakeWorker(answer=busy).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(both,))
        request = asyncio.create_task(gateway.post(PROMPT | {"model": "other"}))
        await busy.started.wait()
        gateway.set_fleet(worker.view(), pools=(make_pool(models=(next(stopped), free)),))
        status, _, _ = await gateway.post(PROMPT)
        assert status == 503
        assert not request.done()
        worker.answer = draws
        status, _, _ = await gateway.post(PROMPT | {"model": "other"})
        assert status == 200
        request.cancel()


async def test_once_it_is_lifted_requests_are_served(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(suspended(),))
        refused, _, _ = await gateway.post(PROMPT)
        gateway.set_fleet(worker.view())
        served, _, _ = await gateway.post(PROMPT)
    assert (refused, served) == (503, 200)


@asynccontextmanager
async def two_models(gateway: Harness, first: Answer, second: Answer) -> AsyncIterator[list[FakeWorker]]:
    """Workers of shapes-1 and of shapes-2, and a pool that gives each half of the traffic."""
    one, two = FakeWorker("w1", first), FakeWorker("w2", second)
    async with one.serving(), two.serving():
        gateway.set_fleet(
            one.view(),
            two.view(placement=(("shapes-2", True),)),
            pools=(make_pool(offers=CANARY),),
            models=BOTH,
        )
        yield [one, two]


async def running_on_the_canary(gateway: Harness, busy: Busy) -> asyncio.Task[Any]:
    """A request that the canary's worker has; those that the stable model draws come first."""
    while True:
        request = asyncio.create_task(gateway.post(PROMPT))
        started = asyncio.create_task(busy.started.wait())
        await asyncio.wait([request, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if busy.started.is_set():
            return request


async def test_without_the_canary_the_stable_model_draws_all_even_what_ran(gateway: Harness) -> None:
    busy = Busy()
    async with two_models(gateway, draws, busy) as workers:
        request = await running_on_the_canary(gateway, busy)
        views = [worker.view(placement=((f"shapes-{n}", True),)) for n, worker in enumerate(workers, 1)]
        gateway.set_fleet(*views, pools=(unsafe("shapes-2", CANARY["shapes"]),), models=BOTH)
        status, headers, _ = await request
        await busy.cancelled.wait()
        others = [await gateway.post(PROMPT) for _ in range(5)]
    assert (status, headers["x-imagefleet-model"]) == (200, "shapes-1")
    assert {reply[1]["x-imagefleet-model"] for reply in others} == {"shapes-1"}


async def test_a_worker_may_know_first_of_the_canary(gateway: Harness) -> None:
    async with two_models(gateway, draws, refuses(503, "model_suspended")) as workers:
        replies = [await gateway.post(PROMPT) for _ in range(10)]
    assert {(status, headers["x-imagefleet-model"]) for status, headers, _ in replies} == {(200, "shapes-1")}
    assert workers[1].requests


async def test_a_worker_may_know_first_and_no_other_of_its_pool_is_asked(gateway: Harness) -> None:
    workers = [FakeWorker(f"w{n}", refuses(503, "model_suspended")) for n in range(2)]
    async with workers[0].serving(), workers[1].serving():
        gateway.set_fleet(*(worker.view() for worker in workers))
        status, headers, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (503, "model_suspended", "false")
    assert sum(len(worker.requests) for worker in workers) == 1


async def test_another_pool_goes_on_with_what_one_may_no_longer_draw(gateway: Harness) -> None:
    busy = Busy()
    second = make_pool("second")
    # The second pool's worker has so much to do that the first one's gets the request.
    slow = {"workSeconds": 2.5, "models": [{"model": "shapes-1", "state": "Resident"}]}
    async with FakeWorker(answer=busy).serving() as one, FakeWorker("w2", state=slow).serving() as two:
        views = (one.view(), two.view(pool="second"))
        gateway.set_fleet(*views, pools=(make_pool(), second))
        await until(lambda: gateway.gateway.fleet.loads["uid-w2"].work_left(time.monotonic()) > 1)
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        gateway.set_fleet(*views, pools=(suspended(), second))
        status, headers, _ = await request
    assert (status, headers["x-imagefleet-pool"]) == (200, "second")

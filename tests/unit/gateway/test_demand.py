"""What the gateway tells the operator of the demand for each model."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.demand import Demand, Held
from imagefleet_runtime.gateway.resources import Scaling
from imagefleet_runtime.gateway.work import WorkerRequest, allowed_wait, patience

from tests.unit.gateway.builders import (
    COMPLETED,
    PROMPT,
    Answer,
    Events,
    FakeWorker,
    Harness,
    error_reply,
    image_reply,
    make_model,
    make_pool,
    refuses,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory

WORK = 0.1048576
"""Seconds of one picture: 10.48576 megapixel-steps at 0.01 s."""


async def told(gateway: Harness) -> dict[str, Any]:
    """The one entry of `models` in `GET /v1/gateway`."""
    (entry,) = json.loads((await gateway.get("/v1/gateway"))[1])["models"]
    return dict(entry)


async def test_demand_counts_requests_and_their_work_once(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        for _ in range(2):
            await gateway.post(PROMPT)
        entry = await told(gateway)
    assert entry.pop("arrivedWorkSeconds") == pytest.approx(2 * WORK)
    assert 0 < entry.pop("secondsSinceArrival") < 60
    assert entry == {
        "namespace": "art",
        "pool": "thumbs",
        "model": "shapes-1",
        "held": 0,
        "running": 0,
        "arrived": 2,
        "started": 2,
        "late": 0,
        "heldWorkSeconds": 0,
        "oldestHeldSeconds": None,
    }


UNSERVED: dict[str, tuple[dict[str, Any], float]] = {
    "a measured model": ({}, WORK),
    "a model that was never measured": ({"rate": None, "load_seconds": None}, 10.48576 * 0.05),
}


@pytest.mark.parametrize(("model", "work"), UNSERVED.values(), ids=UNSERVED.keys())
async def test_a_request_is_visible_while_there_is_no_worker_at_all(
    gateway: Harness, model: dict[str, Any], work: float
) -> None:
    gateway.set_fleet(models=(make_model(**model),))
    request = asyncio.create_task(gateway.post(PROMPT))
    await until(lambda: len(gateway.gateway.line))
    entry = await told(gateway)
    _, text = await gateway.get("/metrics")
    request.cancel()
    assert (entry["arrived"], entry["held"], entry["running"], entry["started"]) == (1, 1, 0, 0)
    assert entry["arrivedWorkSeconds"] == entry["heldWorkSeconds"] == pytest.approx(work)
    assert entry["oldestHeldSeconds"] == pytest.approx(entry["secondsSinceArrival"], abs=0.5)
    labels = '{model="shapes-1",namespace="art",pool="thumbs"}'
    for line in ("arrived_requests_total", "held_requests"):
        assert f"imagefleet_gateway_{line}{labels} 1.0" in text
    assert f"imagefleet_gateway_oldest_held_seconds{labels}" in text
    await until(lambda: len(gateway.gateway.line) == 0)
    assert (await told(gateway))["late"] == 0, "its caller gave up in time"


def after(seconds: str, status: int = 200, code: str = "") -> Answer:
    """A worker that says how long the request waited there."""

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        headers = {"x-imagefleet-queue-seconds": seconds, "x-imagefleet-work-seconds": "0"}
        if status != 200:
            return error_reply(status, code, headers)
        return web.json_response(image_reply(body["seed"]), headers=headers)

    return answer


STARTS: dict[str, tuple[Answer, dict[str, Any], tuple[int, int]]] = {
    "in time": (after("29"), {}, (1, 0)),
    "late": (after("31"), {}, (1, 1)),
    "in time for its own deadline": (after("31"), {"deadline_seconds": 60}, (1, 0)),
    "too late for a deadline that is shorter than the pool's wait, which is the caller's wish": (
        after("29"),
        {"deadline_seconds": 1},
        (1, 0),
    ),
    "in time for a batch": (after("3000"), {"priority": "batch"}, (1, 0)),
    "too late for a batch": (after("3601"), {"priority": "batch"}, (1, 1)),
    "and fails": (after("31", 500, "generation_failed"), {}, (1, 1)),
    "and is not shown": (after("1", 400, "content_policy_violation"), {}, (1, 0)),
    "at a time that is no number": (after("nan"), {}, (1, 0)),
    "never, being refused": (refuses(400, "size_not_supported"), {}, (0, 0)),
    "never, the worker being full": (refuses(429, "queue_full"), {}, (0, 1)),
    "never, the model being broken": (refuses(503, "model_failed"), {}, (0, 0)),
}


@pytest.mark.parametrize(("answer", "fields", "want"), STARTS.values(), ids=STARTS.keys())
async def test_a_request_that_begins(
    gateway: Harness, answer: Answer, fields: dict[str, Any], want: tuple[int, int]
) -> None:
    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT | fields)
        entry = await told(gateway)
    assert (entry["started"], entry["late"]) == want


async def test_the_pool_says_how_long_requests_may_wait(gateway: Harness) -> None:
    async with FakeWorker(answer=after("31")).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(make_pool(scaling=Scaling(wait_seconds=40.0)),))
        await gateway.post(PROMPT)
        entry = await told(gateway)
    assert (entry["started"], entry["late"]) == (1, 0)


async def test_a_stream_has_begun_with_its_first_event(gateway: Harness) -> None:
    seen = asyncio.Event()

    async def script(stream: Events) -> None:
        await stream.write(COMPLETED)
        await seen.wait()

    async def answer(_: dict[str, Any]) -> web.StreamResponse:
        return Events(script)

    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view())
        async with gateway.session.post(
            f"{gateway.url}/v1/images/generations", json=PROMPT | {"stream": True}
        ):
            entry = await told(gateway)
            seen.set()
    assert (entry["started"], entry["running"]) == (1, 1)


async def test_a_request_that_waited_in_vain_is_late(impatient: Harness) -> None:
    impatient.set_fleet()
    assert (await impatient.post(PROMPT))[0] == 503
    entry = await told(impatient)
    assert (entry["arrived"], entry["started"], entry["late"], entry["held"]) == (1, 0, 1, 0)


async def test_a_request_that_may_not_even_wait_is_demand_too(start_gateway: HarnessFactory) -> None:
    async with start_gateway(IMAGEFLEET_HOLD_SECONDS="0") as gateway:
        gateway.set_fleet()
        await gateway.post(PROMPT)
        entry = await told(gateway)
    assert (entry["arrived"], entry["late"]) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "want", "late"),
    [
        ({}, 20.0, 20.0),
        ({"deadline_seconds": 5.0}, 5.0, 20.0),
        ({"deadline_seconds": 60.0}, 60.0, 60.0),
        ({"priority": "batch"}, 3600.0, 3600.0),
        ({"priority": "batch", "deadline_seconds": 90.0}, 90.0, 90.0),
    ],
)
def test_how_long_a_request_may_wait(fields: dict[str, Any], want: float, late: float) -> None:
    body = WorkerRequest(model="m", prompt="p", seed=1, pool_model="n", quality="medium", **fields)
    assert (patience(body, 20.0), allowed_wait(body, 20.0)) == (want, late)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_what_is_held_adds_up(requests: list[tuple[float, float]]) -> None:
    demand = Demand()
    held = [Held(arrived, work) for arrived, work in requests]
    with contextlib.ExitStack() as stack:
        for request in held:
            stack.enter_context(demand.holding(request))
        assert demand.held == len(requests)
        assert demand.held_work_seconds == pytest.approx(sum(work for _, work in requests))
        assert demand.oldest_held_seconds(2e6) == 2e6 - min(arrived for arrived, _ in requests)
    assert (demand.held, demand.held_work_seconds, demand.oldest_held_seconds(2e6)) == (0, 0, None)

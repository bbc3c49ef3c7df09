"""What the whole gateway counts of requests to fake workers, as the operator reads it."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from imagefleet_runtime.gateway.resources import PoolModel

from tests.unit.gateway.builders import (
    COMPLETED,
    PARTIAL,
    PROMPT,
    Answer,
    Events,
    FakeWorker,
    Harness,
    draws,
    error_reply,
    image_reply,
    make_pool,
    make_worker,
    refuses,
    sends,
    streams,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory
from tests.unit.gateway.test_dispatch import breaks_off, garbage


def reports(headers: dict[str, str], status: int = 200, code: str = "") -> Answer:
    """A worker that says so of its pictures."""
    named = {f"x-imagefleet-{name}": value for name, value in headers.items()}

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        if status == 200:
            return web.json_response(image_reply(body["seed"]), headers=named)
        return error_reply(status, code, named)

    return answer


async def read(gateway: Harness) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of the one ImageModel: arm, short budget, served; empty where there is none."""
    (entry,) = json.loads((await gateway.get("/v1/gateway"))[1])["names"]
    arms, budgets, served = entry["arms"], entry["budget"], entry["served"]
    return (
        arms[0] if arms else {},
        budgets[0]["short"] if budgets else {},
        served[0] if served else {},
    )


FAR_AWAY = {"workSeconds": 1000.0, "models": [{"model": "shapes-1", "state": "Resident"}]}
FAILS: dict[str, tuple[Answer, int]] = {
    "fails to load it": (refuses(503, "model_failed"), 1),
    "breaks the connection": (breaks_off, 1),
    "is full": (refuses(429, "queue_full"), 0),
    "drains": (refuses(503, "worker_draining"), 0),
}


@pytest.mark.parametrize(("answer", "errors"), FAILS.values(), ids=FAILS.keys())
async def test_another_worker_serves_what_one_that(gateway: Harness, answer: Answer, errors: int) -> None:
    async with FakeWorker("w1", answer).serving() as bad, FakeWorker("w2", state=FAR_AWAY).serving() as good:
        gateway.set_fleet(bad.view(), good.view())
        await until(lambda: gateway.gateway.fleet.loads["uid-w2"].work_left(0.0) > 0)
        assert (await gateway.post(PROMPT))[0] == 200
        arm, budget, served = await read(gateway)
    assert (arm["requests"], arm["errors"]) == (1 + errors, errors)
    assert (budget["requests"], budget["failed"]) == (1, 0)
    assert served["pictures"] == 1


LAST: dict[str, tuple[Answer, int, tuple[int, int], tuple[int, int]]] = {
    "crashes": (refuses(500, "engine_crashed"), 500, (1, 1), (1, 1)),
    "answers a stack trace": (garbage, 502, (1, 1), (1, 1)),
    "breaks the connection twice": (breaks_off, 502, (1, 1), (1, 1)),
    "cannot load it": (refuses(503, "model_failed"), 503, (1, 1), (1, 1)),
    "is full": (refuses(429, "queue_full"), 429, (0, 0), (0, 0)),
    "refuses the size": (refuses(400, "size_not_supported"), 400, (0, 0), (0, 0)),
    "does not know the gateway": (refuses(401, "invalid_token"), 502, (0, 0), (1, 1)),
}


@pytest.mark.parametrize(("answer", "status", "arms", "budgets"), LAST.values(), ids=LAST.keys())
async def test_nobody_serves_what_a_worker(
    gateway: Harness, answer: Answer, status: int, arms: tuple[int, int], budgets: tuple[int, int]
) -> None:
    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view())
        assert (await gateway.post(PROMPT))[0] == status
        arm, budget, served = await read(gateway)
    assert (arm.get("requests", 0), arm.get("errors", 0)) == arms
    assert (budget.get("requests", 0), budget.get("failed", 0)) == budgets
    assert served == {}


async def test_what_a_worker_says_of_its_pictures_is_kept(gateway: Harness) -> None:
    said = {"run-seconds": "0.2", "checked": "2", "unsafe": "0", "quality": "0.9"}
    async with FakeWorker(answer=reports(said)).serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT | {"n": 2})
        arm, budget, served = await read(gateway)
        _, text = await gateway.get("/metrics")
    # ln(0.2 s / 20.97152 megapixel-steps)
    assert arm["latency"]["sum"] == pytest.approx(-4.65260, abs=1e-5)
    assert arm["quality"] == {"count": 1, "sum": 0.9, "squares": 0.81}
    assert (arm["checked"], budget["checked"], served["pictures"]) == (2, 2, 2)
    labels = '{model="shapes-1",namespace="art",pool="thumbs"}'
    assert f"imagefleet_gateway_pictures_checked_total{labels} 2.0" in text


async def test_a_picture_that_may_not_be_shown_counts_and_is_not_served(gateway: Harness) -> None:
    answer = reports({"checked": "1", "unsafe": "1"}, 400, "content_policy_violation")
    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view())
        assert (await gateway.post(PROMPT))[0] == 400
        arm, budget, served = await read(gateway)
        _, text = await gateway.get("/metrics")
    assert (arm["requests"], arm["errors"], arm["checked"], arm["unsafe"]) == (1, 0, 1, 1)
    assert budget == {"requests": 1, "failed": 0, "slow": 0, "checked": 1, "unsafe": 1}
    assert served == {}
    assert (
        'imagefleet_gateway_pictures_unsafe_total{model="shapes-1",namespace="art",pool="thumbs"} 1.0' in text
    )


async def test_a_request_that_waited_in_vain_failed_and_is_no_error_of_the_model(impatient: Harness) -> None:
    impatient.set_fleet()
    assert (await impatient.post(PROMPT))[0] == 503
    arm, budget, _ = await read(impatient)
    assert arm == {}
    assert (budget["requests"], budget["failed"]) == (1, 1)


async def test_a_worker_that_does_not_finish_is_an_error(start_gateway: HarnessFactory) -> None:
    async def hangs(_: dict[str, Any]) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        start_gateway(IMAGEFLEET_UPSTREAM_SECONDS="1") as gateway,
        FakeWorker(answer=hangs).serving() as worker,
    ):
        gateway.set_fleet(worker.view())
        assert (await gateway.post(PROMPT))[0] == 504
        arm, budget, _ = await read(gateway)
    assert (arm["requests"], arm["errors"]) == (1, 1)
    assert (budget["requests"], budget["failed"]) == (1, 1)


async def test_a_caller_that_left_is_not_counted(gateway: Harness) -> None:
    begun = asyncio.Event()

    async def hangs(_: dict[str, Any]) -> web.StreamResponse:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with FakeWorker(answer=hangs).serving() as worker:
        gateway.set_fleet(worker.view())
        request = asyncio.create_task(gateway.post(PROMPT))
        await begun.wait()
        request.cancel()
        await until(lambda: gateway.log)
        assert await read(gateway) == ({}, {}, {})


@pytest.mark.parametrize(
    ("more", "slow"),
    [
        pytest.param({}, 1, id="interactive"),
        pytest.param({"priority": "batch"}, 0, id="a batch may wait"),
    ],
)
async def test_a_request_is_slow(gateway: Harness, more: dict[str, str], slow: int) -> None:
    at_once = make_pool(models=(PoolModel("shapes", (("shapes-1", 100.0),), slow_seconds=0.0),))
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(at_once,))
        assert (await gateway.post(PROMPT | more))[0] == 200
        assert (await read(gateway))[1]["slow"] == slow


async def stream(gateway: Harness, pictures: int = 1) -> bytes:
    body = PROMPT | {"stream": True, "n": pictures}
    async with gateway.session.post(f"{gateway.url}/v1/images/generations", json=body) as response:
        return await response.read()


async def test_a_stream_counts_as_a_request_and_serves_its_pictures(gateway: Harness) -> None:
    at_once = make_pool(models=(PoolModel("shapes", (("shapes-1", 100.0),), slow_seconds=0.0),))
    async with FakeWorker(answer=sends(PARTIAL, COMPLETED, COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(at_once,))
        await stream(gateway, 2)
        arm, budget, served = await read(gateway)
    assert (arm["requests"], arm["errors"], arm["latency"]["count"]) == (1, 0, 0)
    assert (budget["requests"], budget["slow"]) == (1, 0), "it is as slow as its reader"
    assert (served["requests"], served["pictures"]) == (1, 2)


ERROR = b'event: error\ndata: {"error": {"message": "m", "code": "out_of_memory"}}\n\n'
STOPPED = b'event: error\ndata: {"error": {"message": "m", "code": "model_suspended"}}\n\n'


async def test_a_stream_that_ends_in_an_error_is_one(gateway: Harness) -> None:
    async with FakeWorker(answer=sends(COMPLETED, ERROR)).serving() as worker:
        gateway.set_fleet(worker.view())
        await stream(gateway, 2)
        arm, budget, served = await read(gateway)
    assert (arm["requests"], arm["errors"], arm["outOfMemory"]) == (1, 1, 1)
    assert (budget["requests"], budget["failed"]) == (1, 1)
    assert served["pictures"] == 1, "which the caller has"


async def test_a_stream_that_a_suspension_ended_is_not_counted(gateway: Harness) -> None:
    async with FakeWorker(answer=sends(COMPLETED, STOPPED)).serving() as worker:
        gateway.set_fleet(worker.view())
        await stream(gateway, 2)
        arm, budget, served = await read(gateway)
    assert (arm, budget) == ({}, {})
    assert served["pictures"] == 1


async def test_a_stream_whose_connection_breaks_is_an_error(gateway: Harness) -> None:
    async def script(events: Events) -> None:
        await events.write(PARTIAL)
        events.break_off()

    async with FakeWorker(answer=streams(script)).serving() as worker:
        gateway.set_fleet(worker.view())
        await stream(gateway)
        arm, budget, served = await read(gateway)
    assert (arm["requests"], arm["errors"]) == (1, 1)
    assert (budget["failed"], served) == (1, {})


async def test_names_are_told_by_the_pool_that_served(gateway: Harness) -> None:
    pools = (make_pool("near"), make_pool("thumbs"))
    async with FakeWorker(answer=draws).serving() as worker:
        gateway.set_fleet(worker.view(), make_worker("w9", pool="near", placement=()), pools=pools)
        await until(lambda: gateway.gateway.fleet.snapshot.routes)
        await gateway.post(PROMPT)
        names = json.loads((await gateway.get("/v1/gateway"))[1])["names"]
    assert {entry["pool"]: len(entry["served"]) for entry in names} == {"near": 0, "thumbs": 1}


async def test_figures_of_a_pool_that_is_gone_are_forgotten(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT)
        gateway.set_fleet(worker.view(), pools=())
        await until(lambda: not gateway.gateway.fleet.snapshot.routes)
        assert json.loads((await gateway.get("/v1/gateway"))[1])["names"] == []

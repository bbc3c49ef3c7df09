"""Requests that no worker can take yet."""

import asyncio
import json
from typing import Any

import pytest
from imagefleet_runtime.gateway.resources import PoolView

from tests.unit.gateway.builders import (
    PROMPT,
    FakeWorker,
    Harness,
    make_model,
    make_pool,
    make_worker,
    refuses,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory


async def test_a_caller_that_goes_away_gives_up_its_place_in_the_line(gateway: Harness) -> None:
    gateway.set_fleet()
    request = asyncio.create_task(gateway.post(PROMPT))
    await until_held(gateway, 1)
    request.cancel()
    await until_held(gateway, 0)


async def until_held(gateway: Harness, count: int) -> None:
    await until(lambda: len(gateway.gateway.line) == count)


async def test_a_request_waits_for_a_worker(gateway: Harness) -> None:
    gateway.set_fleet()
    request = asyncio.create_task(gateway.post(PROMPT))
    await until_held(gateway, 1)
    assert json.loads((await gateway.get("/v1/gateway"))[1])["models"][0]["held"] == 1
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        status, _, _ = await request
    assert status == 200
    assert gateway.log[0]["held_seconds"] > 0
    assert len(gateway.gateway.line) == 0


async def test_a_request_waits_for_a_placement(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(placement=()))
        request = asyncio.create_task(gateway.post(PROMPT))
        await until_held(gateway, 1)
        gateway.set_fleet(worker.view())
        status, _, _ = await request
    assert status == 200


async def test_a_request_to_a_draining_worker_waits_for_its_successor(gateway: Harness) -> None:
    async with FakeWorker("w1", refuses(503, "worker_draining")).serving() as drains:
        gateway.set_fleet(drains.view())
        request = asyncio.create_task(gateway.post(PROMPT))
        await until_held(gateway, 1)
        async with FakeWorker("w2").serving() as fresh:
            gateway.set_fleet(drains.view(), fresh.view())
            status, _, _ = await request
    assert status == 200
    assert len(drains.requests) == 1


async def test_a_wait_that_ends_in_vain_says_when_to_come_back(impatient: Harness) -> None:
    impatient.set_fleet(models=(make_model(load_seconds=51.8),))
    status, headers, body = await impatient.post(PROMPT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "model_loading", "52")
    assert impatient.log[0]["code"] == "model_loading"


BATCH = (make_pool(batch=True),)
MIXED = (make_pool("overnight", batch=True), make_pool())


@pytest.mark.parametrize(
    ("pools", "priority", "waits"),
    [
        pytest.param(BATCH, {}, True, id="a batch pool's"),
        pytest.param(BATCH, {"priority": "interactive"}, False, id="somebody waits for it all the same"),
        pytest.param((make_pool(),), {}, False, id="an interactive pool's"),
        pytest.param((make_pool(),), {"priority": "batch"}, True, id="one that says itself that it may wait"),
        pytest.param(MIXED, {}, False, id="one that an interactive pool offers too"),
    ],
)
async def test_what_is_batch_waits_longer_and_is_told_to_the_worker_as_batch(
    pools: tuple[PoolView, ...], priority: dict[str, str], waits: bool, impatient: Harness
) -> None:
    impatient.set_fleet(pools=pools)
    request = asyncio.create_task(impatient.post(PROMPT | priority))
    if not waits:
        assert (await request)[0] == 503
        return
    await until_held(impatient, 1)
    await asyncio.sleep(0.1)
    async with FakeWorker().serving() as worker:
        impatient.set_fleet(worker.view(), pools=pools)
        assert (await request)[0] == 200
    assert worker.requests[0]["priority"] == "batch"


async def test_a_load_that_outlasts_the_wait_says_what_remains(impatient: Harness) -> None:
    loading = {"model": "shapes-1", "state": "Loading", "loadRemainingSeconds": 80}
    async with FakeWorker(state={"workSeconds": 0, "models": [loading]}).serving() as worker:
        impatient.set_fleet(worker.view())
        loads = impatient.gateway.fleet.loads
        await until(lambda: loads["uid-w1"].load_remaining("shapes-1", 0.0))
        status, headers, body = await impatient.post(PROMPT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "model_loading", "80")
    assert worker.requests == []


async def test_a_full_line_does_not_take_another(start_gateway: HarnessFactory) -> None:
    async with start_gateway(IMAGEFLEET_HOLD_LIMIT="0") as gateway:
        gateway.set_fleet()
        status, headers, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (429, "queue_full", "12")


UNAVAILABLE = {
    "a model whose verification failed": (make_model(stalled="wrong digest"),),
    "a model that does not exist": (),
}


@pytest.mark.parametrize("models", UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
async def test_does_not_wait_for(gateway: Harness, models: Any) -> None:
    gateway.set_fleet(make_worker(), models=models)
    status, headers, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"]) == (503, "model_unavailable")
    assert "shapes-1" in body["error"]["message"]
    assert "retry-after" not in headers


async def test_a_held_request_learns_that_its_model_is_gone(gateway: Harness) -> None:
    gateway.set_fleet()
    request = asyncio.create_task(gateway.post(PROMPT))
    await until_held(gateway, 1)
    gateway.set_fleet(pools=())
    status, _, body = await request
    assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_a_request_over_the_limits_does_not_wait(gateway: Harness) -> None:
    gateway.set_fleet()
    status, _, body = await gateway.post(PROMPT | {"n": 5})
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "limit_exceeded", "n")

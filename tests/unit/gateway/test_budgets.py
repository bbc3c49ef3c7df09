"""Budgets: who is refused, who gets less, and who is charged for what."""

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
from aiohttp import web
from imagefleet_runtime.gateway import resources, schemas, work
from imagefleet_runtime.gateway.images import read_generation
from imagefleet_runtime.gateway.quota import BudgetView, Reduced
from imagefleet_runtime.gateway.resources import PoolView

from tests.unit.gateway.builders import (
    COMPLETED,
    PARTIAL,
    PROMPT,
    Busy,
    FakeWorker,
    Harness,
    error_reply,
    image_reply,
    make_model,
    make_pool,
    refuses,
    sends,
    until,
)

LATER = time.time() + 3_600
TENANTS = (("acme", "Within"), ("studio", "Exhausted"))
SMALL = make_model(reduced=Reduced(steps=8, pixels=256 * 256))


def pool(state: str = "Within", **fields: Any) -> PoolView:
    """A pool with a budget in that state, whose day ends in an hour."""
    defaults: dict[str, Any] = {"limit_gpu_hours": 2.0, "resets_at": LATER, "tenant_header": b"x-tenant"}
    budget = BudgetView(state=state, **{**defaults, "tenants": TENANTS} | fields)
    return make_pool(budget=budget)


async def spent(gateway: Harness) -> list[dict[str, Any]]:
    return list(json.loads((await gateway.get("/v1/gateway"))[1])["tenants"])


async def test_who_asks_a_pool_that_is_used_up_is_told_its_limit_and_when_it_begins_anew(
    gateway: Harness,
) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool("Exhausted"),))
        status, headers, body = await gateway.post(PROMPT)
    error = body["error"]
    assert (status, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    day = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(LATER))
    assert "2 GPU-hours a day of InferencePool 'art/thumbs' is used up" in error["message"]
    assert f"begins anew at {day}" in error["message"]
    assert (headers["x-should-retry"], headers["retry-after"]) == ("false", "120")
    assert worker.requests == []
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (429, "insufficient_quota")
    series = 'imagefleet_gateway_quota_refused_total{model="shapes-1",namespace="art",pool="thumbs"} 1.0'
    assert series in (await gateway.get("/metrics"))[1]


@pytest.mark.parametrize(
    ("tenant", "want"),
    [("acme", 200), ("studio", 429), ("nobody", 200), (None, 200), ("Studio", 200)],
)
async def test_a_tenant_is_refused_alone(gateway: Harness, tenant: str | None, want: int) -> None:
    headers = {"X-Tenant": tenant} if tenant else {}
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool(),))
        status, _, body = await gateway.post(PROMPT, headers=headers)
    assert status == want
    if want == 429:
        assert "Tenant 'studio' has used up its budget for today in InferencePool" in body["error"]["message"]


async def test_another_pool_that_offers_the_name_serves_while_one_is_used_up(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        other = make_pool("others")
        gateway.set_fleet(worker.view(pool="others"), pools=(pool("Exhausted"), other))
        assert (await gateway.post(PROMPT))[0] == 200


async def test_what_the_operator_said_of_yesterday_holds_nobody_up_today(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool("Exhausted", resets_at=time.time() - 1),))
        assert (await gateway.post(PROMPT))[0] == 200


async def test_who_waits_while_the_budget_is_used_up_is_refused_then(gateway: Harness) -> None:
    gateway.set_fleet(pools=(pool(),))
    waiting = asyncio.create_task(gateway.post(PROMPT))
    await until(lambda: len(gateway.gateway.line))
    gateway.set_fleet(pools=(pool("Exhausted"),))
    assert (await waiting)[2]["error"]["code"] == "insufficient_quota"


async def test_a_degraded_pool_draws_less_and_says_so(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool("Degraded"),), models=(SMALL,))
        asked = PROMPT | {"size": "512x768", "num_inference_steps": 30}
        status, headers, _ = await gateway.post(asked)
        assert (status, headers["x-imagefleet-degraded"]) == (200, "budget")
        (body,) = worker.requests
        assert (body["width"], body["height"], body["steps"]) == (208, 312, 8)
        modest = PROMPT | {"size": "256x256", "num_inference_steps": 8}
        _, headers, _ = await gateway.post(modest)
    assert "x-imagefleet-degraded" not in headers, "nothing was taken from it"
    series = 'imagefleet_gateway_degraded_total{model="shapes-1",namespace="art",pool="thumbs"} 1.0'
    assert series in (await gateway.get("/metrics"))[1]


async def test_who_wants_no_less_is_refused_where_it_would_be_less(gateway: Harness) -> None:
    whole = {"x-imagefleet-degrade": "refuse"}
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool("Degraded"),), models=(SMALL,))
        status, headers, body = await gateway.post(PROMPT, headers=whole)
        assert (status, body["error"]["code"]) == (429, "insufficient_quota")
        assert headers["x-should-retry"] == "false"
        assert "leave out x-imagefleet-degrade" in body["error"]["message"]
        modest = PROMPT | {"size": "256x256", "num_inference_steps": 8}
        assert (await gateway.post(modest, headers=whole))[0] == 200
    assert len(worker.requests) == 1


async def test_a_model_that_is_not_to_be_reduced_is_served_in_full(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool("Degraded"),))
        _, headers, _ = await gateway.post(PROMPT)
    assert "x-imagefleet-degraded" not in headers
    assert worker.requests[0]["width"] == 512


async def test_a_degraded_tenant_gets_less_alone(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        degraded = pool(tenants=(("acme", "Degraded"),))
        gateway.set_fleet(worker.view(), pools=(degraded,), models=(SMALL,))
        for tenant in ("acme", "others"):
            await gateway.post(PROMPT, headers={"X-Tenant": tenant})
    assert [body["width"] for body in worker.requests] == [256, 512]


def seconds(amount: str) -> Any:
    async def answer(_: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(image_reply(), headers={"x-imagefleet-run-seconds": amount})

    return answer


EXPECTED = 0.262144 * 20 * 2 * 0.01
"""Seconds of one picture of the model's default size, steps and guidance, at its rate."""


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (seconds("1.5"), 1.5),
        (seconds("nan"), EXPECTED),
        (refuses(500, "generation_failed"), 0.0),
        (lambda _: _failed(), 0.25),
    ],
    ids=["as the worker says", "as expected", "a failure without a word", "a failure that cost something"],
)
async def test_a_tenant_is_charged_for_what_was_drawn(gateway: Harness, answer: Any, want: float) -> None:
    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool(),))
        await gateway.post(PROMPT, headers={"X-Tenant": "acme"})
    (entry,) = await spent(gateway)
    assert entry == {
        "namespace": "art",
        "pool": "thumbs",
        "model": "shapes-1",
        "tenant": "acme",
        "workSeconds": pytest.approx(want),
        "inFlightSeconds": 0.0,
        "requests": 1,
    }


async def _failed() -> web.StreamResponse:
    return error_reply(500, "generation_failed", {"x-imagefleet-run-seconds": "0.25"})


async def test_a_stream_is_charged_as_expected(gateway: Harness) -> None:
    async with FakeWorker(answer=sends(PARTIAL, COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool(),))
        body = PROMPT | {"stream": True}
        async with gateway.session.post(f"{gateway.url}/v1/images/generations", json=body) as response:
            await response.read()
        await until(lambda: gateway.log)
    (entry,) = await spent(gateway)
    assert entry["workSeconds"] == pytest.approx(EXPECTED)


async def test_what_is_on_a_worker_counts_as_under_way_and_who_leaves_pays_for_the_time(
    gateway: Harness,
) -> None:
    busy = Busy()
    async with FakeWorker(answer=busy).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(pool(),))
        asked = asyncio.create_task(gateway.post(PROMPT, headers={"X-Tenant": "nobody of the list"}))
        await busy.started.wait()
        (entry,) = await spent(gateway)
        assert (entry["tenant"], entry["workSeconds"]) == ("other", 0.0)
        assert entry["inFlightSeconds"] == pytest.approx(EXPECTED)
        asked.cancel()
        await busy.cancelled.wait()
        await until(lambda: gateway.log)
    (entry,) = await spent(gateway)
    assert entry["inFlightSeconds"] == 0.0
    assert 0 < entry["workSeconds"] <= EXPECTED
    assert "nobody of the list" not in json.dumps(gateway.log)


async def test_a_pool_without_a_budget_is_not_counted_and_one_that_goes_is_forgotten(
    gateway: Harness,
) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT)
        assert await spent(gateway) == []
        gateway.set_fleet(worker.view(), pools=(pool(),))
        await gateway.post(PROMPT)
        assert len(await spent(gateway)) == 1
        gateway.set_fleet(worker.view(), pools=())
        await until(lambda: not gateway.gateway.fleet.snapshot.pools)
    assert await spent(gateway) == []


async def test_a_gateway_says_when_it_started(gateway: Harness) -> None:
    started = json.loads((await gateway.get("/v1/gateway"))[1])["started"]
    assert 0 <= time.time() - float(started) < 60


@pytest.mark.parametrize(
    ("pixels", "size", "want"),
    [
        (256 * 256, (512, 768), (208, 312)),
        (256 * 256, (256, 256), (256, 256)),
        (256 * 256, (1024, 64), (1024, 64)),
        (256 * 256, (1024, 128), (720, 88)),
        (None, (1024, 1024), (1024, 1024)),
    ],
)
def test_a_size_is_reduced_in_its_own_shape(
    pixels: int | None, size: tuple[int, int], want: tuple[int, int]
) -> None:
    assert Reduced(pixels=pixels).fit(size) == want


def test_a_quality_is_reduced_too() -> None:
    request = read_generation(json.dumps({"prompt": "a", "quality": "high"}).encode())
    plan = work.plan(request, make_model(), "shapes", 1, reduced=Reduced(steps=8))
    assert (plan.body.steps, plan.degraded) == (8, True)
    assert plan.units == pytest.approx(0.262144 * 8 * 2)


def test_a_pool_is_read_with_its_budget() -> None:
    raw = {
        "metadata": {"name": "thumbs", "namespace": "art"},
        "spec": {"budget": {"tenantHeader": "X-Tenant", "tenants": [{"name": "acme"}, {"name": "new"}]}},
        "status": {
            "budget": {
                "state": "Throttled",
                "limitGpuHours": 2.0,
                "tenants": [{"name": "acme", "state": "Degraded"}],
            },
            "spend": {"resetsAt": "1970-01-02T00:00:00Z"},
        },
    }
    view = resources.read_pool(msgspec.convert(raw, schemas.Pool))
    assert view.budget == BudgetView(
        "Throttled", 2.0, 86_400.0, b"x-tenant", (("acme", "Degraded"), ("new", "Within"))
    )
    model = {"metadata": {"name": "m"}, "spec": {"degraded": {"steps": 8, "size": "256x128"}}}
    assert resources.read_model(msgspec.convert(model, schemas.Model)).reduced == Reduced(8, 32_768)

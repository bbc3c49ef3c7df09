"""What callers get while a name is suspended: another name, or replies that were given before."""

import asyncio
import time
from typing import Any

import pytest
from imagefleet_runtime.gateway.resources import Fallback, PoolView

from tests.unit.gateway.builders import (
    BOTH,
    PROMPT,
    Busy,
    FakeWorker,
    Harness,
    draws,
    make_model,
    make_pool,
    refuses,
    suspended,
    until,
)

OTHER = {"other": {"shapes-2": 100.0}}


def stands_in(**other: Any) -> tuple[PoolView, PoolView]:
    """A suspended name, and the pool with `other`, which stands in for it."""
    return suspended(fallback=Fallback(model="other")), make_pool("second", OTHER, entry=other)


async def test_another_name_stands_in(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        view = worker.view(pool="second", placement=(("shapes-2", True),))
        gateway.set_fleet(view, pools=stands_in(), models=BOTH)
        status, headers, _ = await gateway.post(PROMPT)
        _, text = await gateway.get("/metrics")
    assert (status, headers["x-imagefleet-model"], headers["x-imagefleet-pool"]) == (
        200,
        "shapes-2",
        "second",
    )
    assert worker.requests[0]["pool_model"] == "other"
    labels = '{model="shapes-1",namespace="art",pool="thumbs",reason="model_suspended"}'
    assert f"imagefleet_gateway_fallbacks_total{labels} 1.0" in text


async def test_another_name_takes_over_what_ran(gateway: Harness) -> None:
    busy = Busy()
    async with FakeWorker(answer=busy).serving() as one, FakeWorker("w2").serving() as two:
        views = (one.view(), two.view(pool="second", placement=(("shapes-2", True),)))
        gateway.set_fleet(*views, models=BOTH)
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        gateway.set_fleet(*views, pools=stands_in(), models=BOTH)
        status, headers, _ = await request
    assert (status, headers["x-imagefleet-model"]) == (200, "shapes-2")


async def test_another_name_of_the_same_model_takes_over_as_soon_as_it_may(gateway: Harness) -> None:
    busy = Busy()
    offers = {"shapes": {"shapes-1": 100.0}, "other": {"shapes-1": 100.0}}
    free = make_pool(offers=offers)
    stopped = make_pool(offers=offers, entry={"suspended": True, "fallback": Fallback(model="other")})
    half = make_pool(models=(stopped.models[0], free.models[1]))
    async with FakeWorker(answer=busy).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(free,))
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        worker.answer = draws
        gateway.set_fleet(worker.view(placement=()), pools=(half,))
        await until(lambda: len(gateway.gateway.line) == 1)
        gateway.set_fleet(worker.view(), pools=(half,))
        status, _, _ = await request
    assert status == 200
    assert worker.requests[-1]["pool_model"] == "other"


async def test_what_is_full_before_it_is_suspended_does_not_fail_what_stands_in(gateway: Harness) -> None:
    busy = Busy()
    full = FakeWorker("w1", refuses(429, "queue_full", retry_after="9"))
    later = {"workSeconds": 500.0, "models": [{"model": "shapes-1", "state": "Resident"}]}
    async with (
        full.serving(),
        FakeWorker("w2", busy, later).serving() as second,
        FakeWorker("w3").serving() as third,
    ):
        views = (full.view(), second.view())
        gateway.set_fleet(*views, models=BOTH)
        await until(lambda: gateway.gateway.fleet.loads["uid-w2"].work_left(time.monotonic()) > 100)
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        gateway.set_fleet(*views, pools=stands_in(), models=BOTH)
        await until(lambda: len(gateway.gateway.line) == 1)
        stand_in = third.view(pool="second", placement=(("shapes-2", True),))
        gateway.set_fleet(*views, stand_in, pools=stands_in(), models=BOTH)
        status, headers, _ = await request
    assert (status, headers["x-imagefleet-model"], len(full.requests)) == (200, "shapes-2", 1)


async def test_what_stands_in_has_its_own_limits(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        view = worker.view(pool="second", placement=(("shapes-2", True),))
        models = (make_model(), make_model("shapes-2", max_images=1))
        gateway.set_fleet(view, pools=stands_in(), models=models)
        status, _, body = await gateway.post(PROMPT | {"n": 2})
    assert (status, body["error"]["code"]) == (400, "limit_exceeded")
    assert "shapes-2" in body["error"]["message"]


NOBODY_STANDS_IN: dict[str, tuple[PoolView, ...]] = {
    "it does not exist": (suspended(fallback=Fallback(model="other")),),
    "it is suspended itself, whatever stands in for it": (
        *stands_in(suspended=True, fallback=Fallback(model="third")),
        make_pool("third", {"third": {"shapes-1": 100.0}}),
    ),
    "it is the same name": (suspended(fallback=Fallback(model="shapes")),),
}


@pytest.mark.parametrize("pools", NOBODY_STANDS_IN.values(), ids=NOBODY_STANDS_IN.keys())
async def test_nobody_stands_in_where(gateway: Harness, pools: tuple[PoolView, ...]) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(pool="third"), pools=pools, models=BOTH)
        status, _, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"]) == (503, "model_suspended")
    assert "Model 'art/shapes'" in body["error"]["message"]
    assert worker.requests == []


async def test_what_stands_in_may_be_suspended_too_while_it_draws(gateway: Harness) -> None:
    busy = Busy()
    async with FakeWorker(answer=busy).serving() as worker:
        view = worker.view(pool="second", placement=(("shapes-2", True),))
        gateway.set_fleet(view, pools=stands_in(), models=BOTH)
        request = asyncio.create_task(gateway.post(PROMPT))
        await busy.started.wait()
        gateway.set_fleet(view, pools=stands_in(suspended=True), models=BOTH)
        status, headers, body = await request
    assert (status, body["error"]["code"], headers["x-imagefleet-model"]) == (
        503,
        "model_suspended",
        "shapes-1",
    )


async def test_the_worker_of_what_stands_in_may_know_first_that_it_is_suspended_too(gateway: Harness) -> None:
    async with FakeWorker(answer=refuses(503, "model_suspended")).serving() as worker:
        view = worker.view(pool="second", placement=(("shapes-2", True),))
        gateway.set_fleet(view, pools=stands_in(), models=BOTH)
        status, _, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"]) == (503, "model_suspended")
    assert "Model 'art/shapes'" in body["error"]["message"]
    assert len(worker.requests) == 1


CACHED = {"fallback": Fallback(cached=True)}


async def test_an_earlier_reply_is_given_again(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(make_pool(entry=CACHED),))
        drawn = await gateway.post(PROMPT | {"seed": 5, "user": "one"})
        gateway.set_fleet(worker.view(), pools=(suspended(**CACHED),))
        status, headers, body = await gateway.post(
            PROMPT | {"model": "art/shapes", "seed": 5, "user": "other"}
        )
        other, _, _ = await gateway.post(PROMPT | {"seed": 6})
        random, _, _ = await gateway.post(PROMPT)
        stream, _, _ = await gateway.post(PROMPT | {"seed": 5, "stream": True})
    assert len(worker.requests) == 1
    assert (status, headers["x-imagefleet-cache"], body) == (200, "hit", drawn[2])
    assert (headers["x-imagefleet-model"], headers["x-imagefleet-seed"]) == ("shapes-1", "5")
    assert "x-imagefleet-cache" not in drawn[1]
    assert (other, random, stream) == (503, 503, 503)


async def test_while_a_name_is_served_its_pictures_are_drawn_anew(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(make_pool(entry=CACHED),))
        for _ in range(2):
            await gateway.post(PROMPT | {"seed": 5})
    assert len(worker.requests) == 2


async def test_replies_are_kept_only_where_they_are_the_fallback(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT | {"seed": 5})
        gateway.set_fleet(worker.view(), pools=(suspended(**CACHED),))
        status, _, _ = await gateway.post(PROMPT | {"seed": 5})
    assert status == 503


async def test_errors_are_not_kept(gateway: Harness) -> None:
    async with FakeWorker(answer=refuses(400, "content_policy_violation")).serving() as worker:
        gateway.set_fleet(worker.view(), pools=(make_pool(entry=CACHED),))
        drawn = await gateway.post(PROMPT | {"seed": 5})
        gateway.set_fleet(worker.view(), pools=(suspended(**CACHED),))
        status, _, _ = await gateway.post(PROMPT | {"seed": 5})
    assert (drawn[0], drawn[2]["error"]["code"]) == (400, "content_policy_violation")
    assert status == 503

"""Copies of requests: whose they are, where they go, what is kept of them, and that no caller notices."""

import asyncio
import json
from typing import Any

import pytest
from imagefleet_runtime.gateway import mirror
from imagefleet_runtime.gateway.images import read_generation
from imagefleet_runtime.gateway.mirror import MAX_COPIES, Outcome
from imagefleet_runtime.gateway.trace import Trace

from tests.unit.gateway.builders import (
    COMPLETED,
    PARTIAL,
    PROMPT,
    Answer,
    FakeWorker,
    Harness,
    data_url,
    draws,
    encoded,
    image_reply,
    make_model,
    refuses,
    sends,
    until,
)
from tests.unit.gateway.mirroring import SHADOW, STABLE, Hanging, pool_that_copies, scores, staged
from tests.unit.gateway.test_dispatch import breaks_off


async def test_a_copy_asks_for_the_same_in_the_background(gateway: Harness) -> None:
    async with staged(gateway) as stage:
        asked = PROMPT | {"seed": 42, "n": 2, "deadline_seconds": 5, "size": "256x256"}
        status, _, body = await gateway.post(
            asked, headers={"x-request-id": "r", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        )
        assert (status, body) == (200, image_reply(42)), "the stable model's"
        assert await stage.ended(1) == {"drawn": 1}
    (copy,), (original,) = stage.shadow.requests, stage.stable.requests
    assert (original["model"], original["deadline_seconds"]) == (STABLE, pytest.approx(5, abs=1))
    del original["deadline_seconds"]
    assert copy == original | {"model": SHADOW, "priority": "batch", "score": True}
    assert stage.shadow.headers[0]["x-request-id"] == "r-mirror"
    assert "traceparent" not in stage.shadow.headers[0]


async def test_a_copys_id_is_no_longer_than_a_worker_takes(gateway: Harness) -> None:
    async with staged(gateway) as stage:
        await gateway.post(PROMPT, headers={"x-request-id": "r" * 128})
        await stage.ended(1)
    assert stage.shadow.headers[0]["x-request-id"] == "r" * 121 + "-mirror"


async def test_the_callers_are_answered_while_copies_hang(gateway: Harness) -> None:
    hanging = Hanging()
    async with staged(gateway, hanging) as stage:
        for _ in range(3):
            assert (await gateway.post(PROMPT))[0] == 200
        await until(lambda: hanging.begun == 3)
        assert stage.outcomes() == {}
        assert gateway.gateway.app.running == 0, "nobody waits for them"
        hanging.release.set()
        assert await stage.ended(3) == {"drawn": 3}
    assert len(gateway.log) == 3, "a copy is not an image request"


@pytest.mark.parametrize("percent", [1.0, 20.0, 50.0, 100.0])
async def test_the_share_is_exact(gateway: Harness, percent: float) -> None:
    async with staged(gateway) as stage:
        stage.set(percent)
        await until(lambda: gateway.gateway.fleet.snapshot.routes["shapes"].mirrors[0].percent == percent)
        for _ in range(100):
            await gateway.post(PROMPT)
        await until(lambda: not len(gateway.gateway.mirror))
    assert len(stage.shadow.requests) == pytest.approx(percent, abs=2)


async def test_a_change_of_the_fleet_does_not_begin_the_share_anew(gateway: Harness) -> None:
    async with staged(gateway) as stage:
        stage.set(25.0)
        await until(lambda: gateway.gateway.fleet.snapshot.routes["shapes"].mirrors[0].percent == 25)
        for number in range(100):
            stage.set(25.0, max_steps=50 + number)
            await gateway.post(PROMPT)
        await until(lambda: not len(gateway.gateway.mirror))
    assert len(stage.shadow.requests) == pytest.approx(25, abs=2)


OUTCOMES: dict[str, tuple[Answer, Outcome, int, int]] = {
    "draws": (scores, Outcome.DRAWN, 1, 0),
    "draws what may not be shown": (refuses(400, "content_policy_violation"), Outcome.DRAWN, 1, 0),
    "crashes": (refuses(500, "engine_crashed"), Outcome.FAILED, 1, 1),
    "has too little memory": (refuses(500, "out_of_memory"), Outcome.FAILED, 1, 1),
    "cannot load it": (refuses(503, "model_failed"), Outcome.FAILED, 1, 1),
    "breaks the connection": (breaks_off, Outcome.FAILED, 1, 1),
    "answers a stream": (sends(PARTIAL, COMPLETED), Outcome.FAILED, 1, 1),
    "is full": (refuses(429, "queue_full"), Outcome.NO_WORKER, 0, 0),
    "drains": (refuses(503, "worker_draining"), Outcome.NO_WORKER, 0, 0),
    "was told to stop": (refuses(503, "model_suspended"), Outcome.NO_WORKER, 0, 0),
    "lost the model": (refuses(404, "model_not_allowed"), Outcome.NO_WORKER, 0, 0),
    "does not do such": (refuses(400, "size_exceeds_memory"), Outcome.REFUSED, 0, 0),
}


@pytest.mark.parametrize(("answer", "outcome", "requests", "errors"), OUTCOMES.values(), ids=OUTCOMES.keys())
async def test_a_copy_whose_worker(
    gateway: Harness, answer: Answer, outcome: Outcome, requests: int, errors: int
) -> None:
    async with staged(gateway, answer) as stage:
        assert (await gateway.post(PROMPT))[0] == 200
        assert await stage.ended(1) == {outcome.value: 1}
        figures = await stage.figures()
        assert len(stage.shadow.requests) == 1, "it is not tried again"
        arms = {arm["model"]: arm for arm in figures["arms"]}
        shadow = arms.get(SHADOW, {"requests": 0, "errors": 0})
        assert (shadow["requests"], shadow["errors"]) == (requests, errors)
        assert (arms[STABLE]["requests"], arms[STABLE]["errors"]) == (1, 0)
        for account in ("budget", "served"):
            assert [entry["model"] for entry in figures[account]] == [STABLE], "nobody got it"
        demand = await stage.demand()
    assert (demand["running"], demand["held"]) == (0, 0)


async def test_what_is_measured_of_a_copy_is_kept(gateway: Harness) -> None:
    async with staged(gateway, scores) as stage:
        await gateway.post(PROMPT)
        await stage.ended(1)
        (arm,) = [arm for arm in (await stage.figures())["arms"] if arm["model"] == SHADOW]
        _, text = await gateway.get("/metrics")
        demand = await stage.demand()
    assert arm["checked"] == 1
    assert arm["quality"]["sum"] == 0.9
    # ln(0.2 s / 10.48576 megapixel-steps)
    assert arm["latency"]["sum"] == pytest.approx(-3.95946, abs=1e-5)
    labels = '{model="shapes-2",namespace="art",pool="thumbs"}'
    assert f"imagefleet_gateway_pictures_checked_total{labels} 1.0" in text
    assert f"imagefleet_gateway_pictures_unsafe_total{labels} 0.0" in text
    assert f"imagefleet_gateway_quality_score_sum{labels} 0.9" in text
    assert demand["arrivedWorkSeconds"] == pytest.approx(0.1048576), "its work counts as the model's demand"


NO_WORKER: dict[str, dict[str, Any]] = {
    "has over 5 s of work": {"workSeconds": 100.0},
    "has not loaded the model": {"models": [{"model": SHADOW, "state": "Absent"}]},
    "is loading the model": {"models": [{"model": SHADOW, "state": "Loading", "loadRemainingSeconds": 60}]},
}


@pytest.mark.parametrize("state", NO_WORKER.values(), ids=NO_WORKER.keys())
async def test_no_copy_for_a_worker_that(gateway: Harness, state: dict[str, Any]) -> None:
    async with staged(gateway, draws, **state) as stage:
        load = gateway.gateway.fleet.loads
        await until(lambda: load["uid-w2"].work_left(0.0) > 0 or not probed_resident(gateway))
        assert (await gateway.post(PROMPT))[0] == 200
        assert await stage.ended(1) == {"no_worker": 1}
    assert stage.shadow.requests == []


def probed_resident(gateway: Harness) -> bool:
    fleet = gateway.gateway.fleet
    (share,) = fleet.snapshot.routes["shapes"].mirrors
    assert share.view is not None
    return fleet.loads["uid-w2"].load_wait(share.view, True, asyncio.get_running_loop().time()) == 0


async def test_no_copy_where_nobody_said_that_the_model_is_in_memory(gateway: Harness) -> None:
    async with staged(gateway, draws, models=[]) as stage:
        stage.set(pinned=False)
        await until(lambda: (SHADOW, False) in gateway.gateway.fleet.snapshot.workers["uid-w2"].placement)
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"no_worker": 1}


async def test_after_a_broken_connection_a_worker_gets_no_copies(gateway: Harness) -> None:
    async with staged(gateway, breaks_off) as stage:
        await gateway.post(PROMPT)
        await stage.ended(1)
        await gateway.post(PROMPT)
        assert await stage.ended(2) == {"failed": 1, "no_worker": 1}


@pytest.mark.parametrize("views", [(), (make_model(SHADOW, stalled="its files changed"),)])
async def test_no_copy_for_a_model_that_cannot_be_served(gateway: Harness, views: tuple[Any, ...]) -> None:
    async with staged(gateway) as stage:
        gateway.set_fleet(
            stage.stable.view(),
            stage.shadow.view(placement=((SHADOW, True),)),
            pools=(pool_that_copies(),),
            models=(make_model(STABLE), *views),
        )
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"no_worker": 1}


async def test_a_request_over_the_shadows_limits_is_not_copied(gateway: Harness) -> None:
    async with staged(gateway) as stage:
        stage.set(max_images=1)
        assert (await gateway.post(PROMPT | {"n": 2}))[0] == 200
        assert await stage.ended(1) == {"refused": 1}
    assert stage.shadow.requests == []


async def test_no_more_copies_at_once_than_may_be(gateway: Harness) -> None:
    hanging = Hanging()
    async with staged(gateway, hanging) as stage:
        for _ in range(MAX_COPIES + 2):
            assert (await gateway.post(PROMPT))[0] == 200
        await until(lambda: hanging.begun == MAX_COPIES)
        assert stage.outcomes() == {"full": 2}
        assert (await stage.demand())["running"] == MAX_COPIES
        hanging.release.set()
        assert await stage.ended(MAX_COPIES + 2) == {"drawn": MAX_COPIES, "full": 2}
        await gateway.post(PROMPT)
        assert (await stage.ended(MAX_COPIES + 3))["drawn"] == MAX_COPIES + 1


async def test_no_more_pictures_in_copies_than_may_be(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = encoded("PNG", (64, 64))
    monkeypatch.setattr(mirror, "MAX_COPIES_BYTES", len(picture) * 3 // 2)
    hanging = Hanging()
    async with staged(gateway, hanging) as stage:
        for _ in range(2):
            await edit(gateway)
        await until(lambda: hanging.begun == 1)
        await gateway.post(PROMPT)
        await until(lambda: hanging.begun == 2)
        hanging.release.set()
        assert await stage.ended(3) == {"drawn": 2, "full": 1}, "one of the pictures and a request without"


async def edit(gateway: Harness, **more: Any) -> int:
    body = PROMPT | {"images": [{"image_url": data_url("PNG", (64, 64))}]} | more
    async with gateway.session.post(f"{gateway.url}/v1/images/edits", json=body) as response:
        await response.read()
        return response.status


async def test_an_edit_is_copied_with_its_picture(gateway: Harness) -> None:
    async with staged(gateway) as stage:
        assert await edit(gateway, strength=0.5, mask={"image_url": data_url("PNG", (64, 64))}) == 200
        await stage.ended(1)
    (copy,), (original,) = stage.shadow.requests, stage.stable.requests
    assert {"image", "mask"} < copy.keys()
    assert copy == original | {"model": SHADOW, "priority": "batch", "score": True}


async def test_a_stream_is_copied_as_a_plain_request_once_it_ended(gateway: Harness) -> None:
    async with staged(gateway) as stage:
        stage.stable.answer = sends(PARTIAL, COMPLETED)
        body = PROMPT | {"stream": True, "partial_images": 1}
        async with gateway.session.post(f"{gateway.url}/v1/images/generations", json=body) as response:
            assert await response.read() == PARTIAL + COMPLETED
        assert await stage.ended(1) == {"drawn": 1}
    (copy,) = stage.shadow.requests
    assert copy.keys().isdisjoint({"stream", "partial_images"})
    assert copy["score"] is True


UNCOPIED: dict[str, tuple[Answer, int]] = {
    "the worker refused": (refuses(400, "invalid_value"), 400),
    "found all workers full": (refuses(429, "queue_full", retry_after="3"), 429),
}


@pytest.mark.parametrize(("answer", "status"), UNCOPIED.values(), ids=UNCOPIED.keys())
async def test_no_copy_of_a_request_that(gateway: Harness, answer: Answer, status: int) -> None:
    async with staged(gateway) as stage:
        stage.stable.answer = answer
        assert (await gateway.post(PROMPT))[0] == status
        stage.stable.answer = draws
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"drawn": 1}
    assert len(stage.shadow.requests) == 1


@pytest.mark.parametrize("answer", [refuses(500, "engine_crashed"), refuses(400, "content_policy_violation")])
async def test_a_request_that_the_stable_model_failed_is_copied(gateway: Harness, answer: Answer) -> None:
    async with staged(gateway) as stage:
        stage.stable.answer = answer
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"drawn": 1}, "the same requests are compared"


async def test_no_copy_of_a_request_whose_caller_left(gateway: Harness) -> None:
    hanging = Hanging()
    async with staged(gateway) as stage:
        stage.stable.answer = hanging
        request = asyncio.create_task(gateway.post(PROMPT))
        await until(lambda: hanging.begun)
        request.cancel()
        await until(lambda: gateway.log)
        stage.stable.answer = draws
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"drawn": 1}
    assert len(stage.shadow.requests) == 1


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param({"attempts": 1, "repeated": True}, id="that got an answer of earlier again"),
        pytest.param({"attempts": 0}, id="that no worker saw"),
    ],
)
async def test_no_copy_of_a_request(gateway: Harness, trace: dict[str, Any]) -> None:
    async with staged(gateway) as stage:
        answered = Trace("r", 0.0, key=("art", "thumbs", STABLE), name="shapes", seed=1, **trace)
        request = read_generation(json.dumps(PROMPT).encode())
        gateway.gateway.mirror.offer(request, answered, 200, "")
        assert not len(gateway.gateway.mirror)
        assert stage.outcomes() == {}, "it is not even asked whose turn it is"


async def test_copies_end_with_the_mirror(gateway: Harness) -> None:
    hanging = Hanging()
    async with staged(gateway, hanging) as stage:
        await gateway.post(PROMPT)
        await until(lambda: hanging.begun)
        stage.set(percent=0)
        await until(lambda: hanging.cancelled)
        await until(lambda: not gateway.gateway.fleet.snapshot.routes["shapes"].mirrors)
        await gateway.post(PROMPT)
        assert (await stage.figures())["arms"][0]["requests"] == 2
        assert len(stage.shadow.requests) == 1


async def test_copies_go_on_while_the_mirror_stays(gateway: Harness) -> None:
    hanging = Hanging()
    async with staged(gateway, hanging) as stage:
        await gateway.post(PROMPT)
        await until(lambda: hanging.begun)
        stage.set(percent=50.0)
        await until(lambda: gateway.gateway.fleet.snapshot.routes["shapes"].mirrors[0].percent == 50)
        hanging.release.set()
        assert await stage.ended(1) == {"drawn": 1}


async def test_copies_end_with_the_gateway(gateway: Harness) -> None:
    hanging = Hanging()
    async with staged(gateway, hanging):
        await gateway.post(PROMPT)
        await until(lambda: hanging.begun)
        gateway.gateway.mirror.close()
        await until(lambda: hanging.cancelled)


async def test_a_worker_that_does_not_finish_a_copy(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.gateway.mirror, "_upstream_seconds", 0.05)
    async with staged(gateway, Hanging()) as stage:
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"failed": 1}


async def test_two_shadows_each_get_their_share(gateway: Harness) -> None:
    async with staged(gateway) as stage, FakeWorker("w3").serving() as other:
        gateway.set_fleet(
            stage.stable.view(),
            stage.shadow.view(placement=((SHADOW, True),)),
            other.view(placement=(("shapes-3", True),)),
            pools=(pool_that_copies(50.0, **{"shapes-3": 100.0}),),
            models=(make_model(STABLE), make_model(SHADOW), make_model("shapes-3")),
        )
        await until(lambda: len(gateway.gateway.fleet.snapshot.routes["shapes"].mirrors) == 2)
        for _ in range(20):
            await gateway.post(PROMPT)
        await until(lambda: not len(gateway.gateway.mirror))
    assert len(other.requests) == 20
    assert len(stage.shadow.requests) == pytest.approx(10, abs=2)


async def test_series_of_a_shadow_that_is_gone_are_forgotten(gateway: Harness) -> None:
    async with staged(gateway, scores) as stage:
        await gateway.post(PROMPT)
        await stage.ended(1)
        stage.set(percent=0)
        await until(lambda: not gateway.gateway.fleet.snapshot.routes["shapes"].mirrors)
        assert SHADOW not in (await gateway.get("/metrics"))[1]

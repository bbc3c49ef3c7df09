"""The way of a request through the real application to fake workers on loopback sockets."""

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp import web
from imagefleet_runtime.gateway.attempt import retry_reason
from imagefleet_runtime.gateway.resources import Stickiness

from tests.unit.gateway.builders import (
    PROMPT,
    Answer,
    FakeWorker,
    Harness,
    image_reply,
    make_model,
    make_pool,
    make_worker,
    refuses,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory


class Broken(web.Response):
    """A reply whose connection breaks after half the body."""

    async def write_eof(self, data: bytes = b"") -> None:
        assert self._payload_writer is not None
        assert self._payload_writer.transport is not None
        self._payload_writer.transport.abort()


async def breaks_off(_: dict[str, Any]) -> web.StreamResponse:
    return Broken(body=b"{" * 100)


async def garbage(_: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=500, text="Traceback (most recent call last)")


@pytest.mark.parametrize(
    ("status", "code", "want"),
    [
        (429, "queue_full", "queue_full"),
        (503, "worker_draining", "worker_draining"),
        (503, "model_loading", "model_loading"),
        (503, "model_failed", "model_failed"),
        (503, "", "unavailable"),
        (404, "model_not_allowed", "model_not_allowed"),
        (404, "", None),
        (400, "invalid_value", None),
        (401, "invalid_token", None),
        (500, "engine_crashed", None),
    ],
)
def test_retry_reason(status: int, code: str, want: str | None) -> None:
    assert retry_reason(status, code) == want


async def test_a_picture(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        status, headers, body = await gateway.post(PROMPT | {"seed": 42}, headers={"x-request-id": "req-1"})
    assert (status, body) == (200, image_reply(42))
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == "req-1"
    assert headers["x-imagefleet-model"] == "shapes-1"
    assert headers["x-imagefleet-pool"] == "thumbs"
    assert headers["x-imagefleet-seed"] == "42"
    (sent,) = worker.requests
    assert (sent["model"], sent["pool_model"], sent["seed"]) == ("shapes-1", "shapes", 42)
    assert worker.headers[0]["x-request-id"] == "req-1"
    assert worker.headers[0]["authorization"].startswith("Bearer ")


async def test_the_gateway_chooses_the_seed_that_the_worker_gets(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        _, headers, _ = await gateway.post(PROMPT)
        _, others, _ = await gateway.post(PROMPT)
    assert [str(request["seed"]) for request in worker.requests] == [
        headers["x-imagefleet-seed"],
        others["x-imagefleet-seed"],
    ]
    assert headers["x-imagefleet-seed"] != others["x-imagefleet-seed"]


async def test_one_log_line_per_request_without_the_prompt(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post({"prompt": "SECRET", "user": "PERSON", "seed": 3}, headers={"x-request-id": "r"})
    (line,) = gateway.log
    assert "SECRET" not in json.dumps(line)
    assert "PERSON" not in json.dumps(line)
    assert {name: line[name] for name in line if name not in ("time", "seconds")} == {
        "request_id": "r",
        "namespace": "art",
        "pool": "thumbs",
        "model": "shapes-1",
        "seed": 3,
        "status": 200,
        "code": "",
        "held_seconds": 0.0,
        "worker": "w1",
        "attempts": 1,
        "interruptions": 0,
    }


PASSED_ON: dict[str, tuple[int, str]] = {
    "a size that the pipeline refuses": (400, "size_not_supported"),
    "a request that takes too long": (400, "request_too_long"),
    "a picture that may not be shown": (400, "content_policy_violation"),
    "a crash of the engine": (500, "engine_crashed"),
    "out of memory": (500, "out_of_memory"),
}


@pytest.mark.parametrize(("status", "code"), PASSED_ON.values(), ids=PASSED_ON.keys())
async def test_passes_on(gateway: Harness, status: int, code: str) -> None:
    async with FakeWorker(answer=refuses(status, code)).serving() as one, FakeWorker("w2").serving() as other:
        gateway.set_fleet(one.view(), other.view(placement=()))
        got, headers, body = await gateway.post(PROMPT)
    assert (got, body["error"]["code"], body["error"]["message"]) == (status, code, f"worker says {code}")
    assert headers["x-imagefleet-model"] == "shapes-1"
    assert "x-imagefleet-seed" in headers
    assert gateway.log[0]["code"] == code
    assert other.requests == []


FAULTS: dict[str, Answer] = {
    "a token that it does not accept": refuses(401, "invalid_token"),
    "a caller that it does not accept": refuses(403, "wrong_caller"),
    "a stack trace": garbage,
    "a path that it does not know": refuses(404, ""),
}


@pytest.mark.parametrize("answer", FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_of_the_fleet_is_a_worker_error(gateway: Harness, answer: Answer) -> None:
    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view())
        status, _, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"], body["error"]["type"]) == (502, "worker_error", "server_error")
    assert "Traceback" not in body["error"]["message"]


RETRIED: dict[str, Answer] = {
    "is not allowed the model": refuses(404, "model_not_allowed"),
    "is full": refuses(429, "queue_full", retry_after="3"),
    "drains": refuses(503, "worker_draining"),
    "lost the model": refuses(503, "model_loading"),
    "failed to load the model": refuses(503, "model_failed"),
    "breaks the connection": breaks_off,
}


@pytest.mark.parametrize("answer", RETRIED.values(), ids=RETRIED.keys())
async def test_tries_another_worker_when_one(gateway: Harness, answer: Answer) -> None:
    busy = {"workSeconds": 1000.0, "models": [{"model": "shapes-1", "state": "Resident"}]}
    async with FakeWorker("w1", answer).serving() as bad, FakeWorker("w2", state=busy).serving() as good:
        gateway.set_fleet(bad.view(), good.view())
        await until(lambda: gateway.gateway.fleet.loads["uid-w2"].work_left(time.monotonic()) > 0)
        status, _, _ = await gateway.post(PROMPT)
    assert status == 200
    assert len(bad.requests) == 1
    assert gateway.log[-1]["attempts"] == 2
    assert gateway.log[-1]["worker"] == "w2"


async def test_no_worker_is_tried_twice_and_no_more_than_three_are(gateway: Harness) -> None:
    workers = [FakeWorker(f"w{i}", refuses(429, "queue_full", retry_after=str(9 - i))) for i in range(4)]
    async with workers[0].serving(), workers[1].serving(), workers[2].serving(), workers[3].serving():
        gateway.set_fleet(*(worker.view() for worker in workers))
        status, headers, body = await gateway.post(PROMPT)
    tried = [worker for worker in workers if worker.requests]
    assert [len(worker.requests) for worker in tried] == [1, 1, 1]
    assert (status, body["error"]["code"], body["error"]["type"]) == (429, "queue_full", "rate_limit_error")
    assert headers["retry-after"] == str(min(9 - workers.index(worker) for worker in tried))


async def test_all_workers_full(gateway: Harness) -> None:
    async with FakeWorker(answer=refuses(429, "queue_full", retry_after="7")).serving() as worker:
        gateway.set_fleet(worker.view())
        status, headers, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (429, "queue_full", "7")


async def test_a_second_broken_connection_ends_the_request(gateway: Harness) -> None:
    workers = [FakeWorker(f"w{i}", breaks_off) for i in range(3)]
    async with workers[0].serving(), workers[1].serving(), workers[2].serving():
        gateway.set_fleet(*(worker.view() for worker in workers))
        status, headers, body = await gateway.post(PROMPT | {"seed": 5})
    assert sum(len(worker.requests) for worker in workers) == 2
    assert (status, body["error"]["code"]) == (502, "worker_lost")
    assert headers["x-imagefleet-seed"] == "5"


async def test_a_worker_that_is_not_there_is_lost(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gone = worker.view()
    gateway.set_fleet(gone)
    status, _, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"]) == (502, "worker_lost")


async def test_a_model_that_fails_everywhere_says_so(gateway: Harness) -> None:
    async with FakeWorker(answer=refuses(503, "model_failed", retry_after="20")).serving() as worker:
        gateway.set_fleet(worker.view())
        status, headers, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "model_failed", "20")


async def test_a_worker_that_does_not_finish(start_gateway: HarnessFactory) -> None:
    forever = asyncio.Event()

    async def hangs(_: dict[str, Any]) -> web.StreamResponse:
        await forever.wait()
        raise AssertionError

    async with (
        start_gateway(IMAGEFLEET_UPSTREAM_SECONDS="1") as gateway,
        FakeWorker(answer=hangs).serving() as worker,
    ):
        gateway.set_fleet(worker.view())
        status, _, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"]) == (504, "worker_timeout")


async def test_a_caller_that_goes_away_ends_the_workers_request(gateway: Harness) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def works(_: dict[str, Any]) -> web.StreamResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async with FakeWorker(answer=works).serving() as worker:
        gateway.set_fleet(worker.view())
        request = asyncio.create_task(gateway.post(PROMPT))
        await started.wait()
        request.cancel()
        await cancelled.wait()
        await until(lambda: gateway.log)
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (499, "client_closed_request")
    assert gateway.gateway.app.running == 0


async def test_what_a_worker_reports_steers_the_next_request(gateway: Harness) -> None:
    async def busy(body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(image_reply(body["seed"]), headers={"x-imagefleet-work-seconds": "50"})

    async with FakeWorker("w1", busy).serving() as one, FakeWorker("w2", busy).serving() as other:
        gateway.set_fleet(one.view(), other.view())
        for _ in range(2):
            await gateway.post(PROMPT)
    assert (len(one.requests), len(other.requests)) == (1, 1)


async def test_connections_to_a_worker_are_used_again(gateway: Harness) -> None:
    ports = set()

    async def remember(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        ports.add(transport.get_extra_info("peername"))
        return web.json_response(image_reply())

    app = web.Application()
    app.router.add_post("/v1/generate", remember)
    app.router.add_get("/v1/worker", remember)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.set_fleet(make_worker(port=runner.addresses[0][1]))
    for _ in range(5):
        await gateway.post(PROMPT)
    await runner.cleanup()
    assert len(ports) <= 2


async def test_two_hundred_requests_survive_a_worker_that_dies_and_one_that_drains(gateway: Harness) -> None:
    workers = [FakeWorker(f"w{i}") for i in range(4)]
    async with (
        workers[0].serving(),
        workers[1].serving(),
        workers[2].serving(),
        workers[3].serving(),
    ):
        gateway.set_fleet(*(worker.view() for worker in workers))
        await gateway.post(PROMPT)
        workers[0].answer = breaks_off
        workers[1].answer = refuses(503, "worker_draining")
        replies = await asyncio.gather(*(gateway.post(PROMPT) for _ in range(200)))
    assert {status for status, _, _ in replies} == {200}


SPLIT = {"shapes": {"shapes-1": 50.0, "shapes-2": 50.0}}
STICKY: dict[str, tuple[Stickiness, dict[str, Any], dict[str, str]]] = {
    "header": (Stickiness(header=b"x-session-id"), {}, {"X-Session-Id": "SESSION-7"}),
    "user": (Stickiness(user=True), {"user": "SESSION-7"}, {}),
}


@pytest.mark.parametrize(("stickiness", "fields", "headers"), STICKY.values(), ids=STICKY.keys())
async def test_a_caller_keeps_its_version(
    gateway: Harness,
    capsys: pytest.CaptureFixture[str],
    stickiness: Stickiness,
    fields: dict[str, Any],
    headers: dict[str, str],
) -> None:
    pool = make_pool(offers=SPLIT, entry={"stickiness": stickiness})
    async with FakeWorker().serving() as worker:
        view = worker.view(placement=(("shapes-1", True), ("shapes-2", True)))
        gateway.set_fleet(view, pools=(pool,), models=(make_model(), make_model("shapes-2")))
        kept = {
            (await gateway.post(PROMPT | fields, headers=headers))[1]["x-imagefleet-model"] for _ in range(8)
        }
        others = {(await gateway.post(PROMPT))[1]["x-imagefleet-model"] for _ in range(8)}
    assert (len(kept), len(others)) == (1, 2)
    assert "SESSION-7" not in json.dumps(gateway.log) + "".join(capsys.readouterr())
    assert "SESSION-7" not in json.dumps(worker.requests) + json.dumps(worker.headers)


async def test_pictures_that_are_compared_are_scored(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(make_pool(entry={"canary": "shapes-2"}),))
        await gateway.post(PROMPT)
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT)
    assert [request.get("score", False) for request in worker.requests] == [True, False]

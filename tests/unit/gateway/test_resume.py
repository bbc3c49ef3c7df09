"""Requests that a worker gives up go on with another one."""

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest
from aiohttp import web
from imagefleet_runtime.gateway import course, resume, work
from imagefleet_runtime.gateway.bodies import MAX_BODY_BYTES, Budget
from imagefleet_runtime.gateway.errors import ApiError
from imagefleet_runtime.gateway.events import Delivered
from imagefleet_runtime.gateway.resume import MAX_INTERRUPTIONS

from tests.unit.gateway.builders import (
    BOTH,
    PROMPT,
    Answer,
    FakeWorker,
    Harness,
    draws,
    event,
    image_reply,
    make_pool,
    refuses,
    sends,
    suspended,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory
from tests.unit.gateway.mirroring import staged
from tests.unit.gateway.test_streams import STREAM, error_of, read
from tests.unit.gateway.test_waiting import until_held

CHECKPOINT = base64.b64encode(b"what the denoiser said so far").decode()


def gives_up(checkpoint: Any = CHECKPOINT, steps: int = 12) -> Answer:
    async def answer(_: dict[str, Any]) -> web.StreamResponse:
        error = {"message": "interrupted", "type": "server_error", "param": None, "code": "interrupted"}
        headers = {"x-imagefleet-queue-seconds": "1", "x-imagefleet-work-seconds": "0"}
        body = {"error": error, "checkpoint": checkpoint, "stepsDone": steps}
        return web.json_response(body, status=503, headers=headers)

    return answer


def once(first: Answer, then: Answer = draws) -> Answer:
    answers = [first]

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        return await (answers.pop() if answers else then)(body)

    return answer


def busy(seconds: float = 2.0) -> dict[str, Any]:
    """A worker that is no one's first choice."""
    return {"workSeconds": seconds, "models": [{"model": "shapes-1", "state": "Resident"}]}


async def set_both(gateway: Harness, first: FakeWorker, second: FakeWorker, **fleet: Any) -> None:
    """The first has nothing to do."""
    gateway.set_fleet(first.view(), second.view(), **fleet)
    await until(lambda: gateway.gateway.fleet.loads["uid-w2"].heard_at > 0)


def total(text: str, name: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_another_worker_goes_on_where_one_left_off(gateway: Harness) -> None:
    async with (
        FakeWorker("w1", gives_up()).serving() as one,
        FakeWorker("w2", state=busy()).serving() as other,
    ):
        await set_both(gateway, one, other)
        status, _, body = await gateway.post(PROMPT | {"seed": 5})
        report = json.loads((await gateway.get("/v1/gateway"))[1])
        _, metrics = await gateway.get("/metrics")
    assert (status, body) == (200, image_reply(5))
    assert "resume" not in one.requests[0]
    assert other.requests[0] == one.requests[0] | {"resume": CHECKPOINT}
    assert (gateway.log[0]["attempts"], gateway.log[0]["interruptions"]) == (2, 1)
    (arm,) = report["names"][0]["arms"]
    assert (arm["requests"], arm["errors"]) == (1, 0), "giving up is no error"
    assert arm["latency"]["count"] == 0, "the second worker's time is not all of it"
    assert (report["models"][0]["arrived"], report["models"][0]["started"]) == (1, 1)
    assert total(metrics, "imagefleet_gateway_resumed_total") == 1
    assert gateway.gateway.bodies.used == 0


async def test_it_waits_for_a_worker_before_all_others_of_its_class(gateway: Harness) -> None:
    async with FakeWorker("w1", once(gives_up(), refuses(503, "worker_draining"))).serving() as one:
        gateway.set_fleet(one.view())
        begun = asyncio.create_task(gateway.post(PROMPT | {"prompt": "begun", "priority": "batch"}))
        await until_held(gateway, 1)
        assert gateway.gateway.bodies.used > len(CHECKPOINT), "the checkpoint takes room"
        gateway.set_fleet()
        others = [
            asyncio.create_task(gateway.post(PROMPT | {"prompt": prompt, "priority": prompt}))
            for prompt in ("batch", "interactive")
        ]
        await until_held(gateway, 3)
        async with FakeWorker("w2").serving() as fresh:
            gateway.set_fleet(fresh.view())
            assert {(await task)[0] for task in (begun, *others)} == {200}
    assert [request["prompt"] for request in fresh.requests] == ["interactive", "begun", "batch"]
    assert fresh.requests[1]["resume"] == CHECKPOINT
    assert gateway.gateway.bodies.used == 0


async def test_the_only_worker_gets_it_back(gateway: Harness) -> None:
    """It gave up a batch request for an interactive one."""
    async with FakeWorker("w1", once(gives_up())).serving() as worker:
        gateway.set_fleet(worker.view())
        status, _, _ = await gateway.post(PROMPT | {"priority": "batch"})
    assert status == 200
    assert [request.get("resume") for request in worker.requests] == [None, CHECKPOINT]


async def test_giving_up_counts_as_no_attempt_but_has_a_bound(gateway: Harness) -> None:
    async with FakeWorker("w1", gives_up()).serving() as worker:
        gateway.set_fleet(worker.view())
        status, headers, body = await gateway.post(PROMPT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "interrupted", "60")
    assert len(worker.requests) == MAX_INTERRUPTIONS + 1
    assert gateway.gateway.bodies.used == 0


async def test_the_last_checkpoint_there_is_counts(gateway: Harness) -> None:
    """Whoever gives a request up before it has begun leaves what there was."""
    answers = [gives_up(), gives_up("c2Vjb25k"), gives_up(None, 0), draws]

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        return await answers.pop(0)(body)

    async with FakeWorker("w1", answer).serving() as worker:
        gateway.set_fleet(worker.view())
        assert (await gateway.post(PROMPT))[0] == 200
    resumed = [request.get("resume") for request in worker.requests]
    assert resumed == [None, CHECKPOINT, "c2Vjb25k", "c2Vjb25k"]


async def test_a_checkpoint_that_cannot_be_used_is_left_out(gateway: Harness) -> None:
    def choosy(body: dict[str, Any]) -> Answer:
        return refuses(400, "checkpoint_unusable") if "resume" in body else draws

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        return await choosy(body)(body)

    async with (
        FakeWorker("w1", gives_up()).serving() as one,
        FakeWorker("w2", answer, state=busy()).serving() as other,
    ):
        await set_both(gateway, one, other)
        status, _, _ = await gateway.post(PROMPT)
    assert status == 200
    assert ["resume" in request for request in other.requests] == [True, False]


NO_CHECKPOINTS: dict[str, Any] = {"absent": None, "a number": 7, "an object": {"a": 1}}


@pytest.mark.parametrize("checkpoint", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS.keys())
async def test_without_a_checkpoint_it_begins_anew_where_that_is(gateway: Harness, checkpoint: Any) -> None:
    async with FakeWorker("w1", once(gives_up(checkpoint))).serving() as worker:
        gateway.set_fleet(worker.view())
        assert (await gateway.post(PROMPT))[0] == 200
    assert "resume" not in worker.requests[1]


async def test_without_room_for_the_checkpoint_it_begins_anew(start_gateway: HarnessFactory) -> None:
    large = "A" * (MAX_BODY_BYTES - 100)
    async with (
        start_gateway(IMAGEFLEET_BODY_BYTES=str(MAX_BODY_BYTES)) as gateway,
        FakeWorker("w1", once(gives_up(large))).serving() as worker,
    ):
        gateway.set_fleet(worker.view())
        assert (await gateway.post(PROMPT | {"negative_prompt": "A" * 200}))[0] == 200
        assert "resume" not in worker.requests[1]
        assert gateway.gateway.bodies.used == 0


async def test_a_checkpoint_is_for_its_own_model(gateway: Harness) -> None:
    """Its model was suspended meanwhile: another version draws the picture from the beginning."""
    split = {"shapes": {"shapes-1": 50.0, "shapes-2": 50.0}}
    placement = (("shapes-1", True), ("shapes-2", True))

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        if len(worker.requests) == 1:
            closed = make_pool(offers=split, entry={"suspended_models": (body["model"],)})
            gateway.set_fleet(worker.view(placement=placement), pools=(closed,), models=BOTH)
            return await gives_up()(body)
        return await draws(body)

    async with FakeWorker("w1", answer).serving() as worker:
        gateway.set_fleet(worker.view(placement=placement), pools=(make_pool(offers=split),), models=BOTH)
        assert (await gateway.post(PROMPT))[0] == 200
    first, last = worker.requests[0], worker.requests[-1]
    assert first["model"] != last["model"]
    assert "resume" not in last


async def test_a_copy_that_is_given_up_is_dropped(gateway: Harness) -> None:
    async with staged(gateway, gives_up()) as stage:
        await gateway.post(PROMPT)
        assert await stage.ended(1) == {"interrupted": 1}
        figures = await stage.figures()
    assert [arm["model"] for arm in figures["arms"]] == ["shapes-1"]
    assert len(stage.shadow.requests) == 1


# Streams

PREVIEWS = [event("partial_image", partial_image_index=index) for index in range(3)]
PICTURES = [event("completed", seed=seed) for seed in (1, 2)]
LEFT_OFF = (
    f'event: imagefleet.checkpoint\ndata: {{"checkpoint": "{CHECKPOINT}", "stepsDone": 12}}\n\n'.encode()
)

CONTINUED: dict[str, tuple[list[bytes], list[bytes], dict[str, Any], list[bytes]]] = {
    "with what is missing": (
        PREVIEWS[:2],
        [PREVIEWS[2], PICTURES[0]],
        {"partial_images": 3},
        [*PREVIEWS, PICTURES[0]],
    ),
    "without the previews that were sent already": (
        PREVIEWS[:2],
        [*PREVIEWS, PICTURES[0]],
        {"partial_images": 3},
        [*PREVIEWS, PICTURES[0]],
    ),
    "without the picture that was sent already": (
        PICTURES[:1],
        PICTURES,
        {"n": 2},
        PICTURES,
    ),
    "with the second picture alone": (PICTURES[:1], PICTURES[1:], {"n": 2}, PICTURES),
    "from the start": ([], [PREVIEWS[0], PICTURES[0]], {"partial_images": 1}, [PREVIEWS[0], PICTURES[0]]),
}


@pytest.mark.parametrize(("before", "after", "fields", "want"), CONTINUED.values(), ids=CONTINUED.keys())
async def test_a_stream_goes_on(
    gateway: Harness, before: list[bytes], after: list[bytes], fields: dict[str, Any], want: list[bytes]
) -> None:
    async with (
        FakeWorker("w1", sends(*before, LEFT_OFF)).serving() as one,
        FakeWorker("w2", sends(*after), state=busy()).serving() as other,
    ):
        await set_both(gateway, one, other)
        stream = await read(gateway, **fields)
        await until(lambda: gateway.log)
        arms = json.loads((await gateway.get("/v1/gateway"))[1])["names"][0]["arms"]
    assert stream == b"".join(want)
    assert b"checkpoint" not in stream
    assert other.requests[0]["resume"] == CHECKPOINT
    assert (gateway.log[0]["status"], gateway.log[0]["interruptions"]) == (200, 1)
    assert [(arm["requests"], arm["errors"]) for arm in arms] == [(1, 0)]
    assert gateway.gateway.bodies.used == 0
    assert all(demand.running == 0 for _, demand in gateway.gateway.metrics.demands())


BROKEN_OFF: dict[str, tuple[Answer, str, int]] = {
    "the other worker is full": (refuses(429, "queue_full"), "queue_full", 0),
    "the other worker refuses it": (refuses(400, "size_not_supported"), "size_not_supported", 0),
    "the other worker fails it": (refuses(500, "generation_failed"), "generation_failed", 1),
    "the other worker ends too soon": (sends(PREVIEWS[1]), "worker_error", 1),
}


@pytest.mark.parametrize(("answer", "code", "errors"), BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
async def test_a_stream_ends_with_an_error_where(
    gateway: Harness, answer: Answer, code: str, errors: int
) -> None:
    async with (
        FakeWorker("w1", once(sends(PREVIEWS[0], LEFT_OFF), answer)).serving() as one,
        FakeWorker("w2", answer, state=busy()).serving() as other,
    ):
        await set_both(gateway, one, other)
        stream = await read(gateway, partial_images=2)
        await until(lambda: gateway.log)
        arms = json.loads((await gateway.get("/v1/gateway"))[1])["names"][0]["arms"]
    assert stream.startswith(PREVIEWS[0])
    assert error_of(stream)["code"] == code
    assert gateway.log[0]["code"] == code
    assert sum(arm["errors"] for arm in arms) == errors


async def test_a_stream_whose_model_is_suspended_meanwhile_ends(gateway: Harness) -> None:
    async with FakeWorker(
        "w1", once(sends(PREVIEWS[0], LEFT_OFF), refuses(503, "worker_draining"))
    ).serving() as one:
        gateway.set_fleet(one.view())
        reading = asyncio.create_task(read(gateway, partial_images=2))
        await until_held(gateway, 1)
        gateway.set_fleet(one.view(), pools=(suspended(),))
        assert error_of(await reading)["code"] == "model_suspended"


async def test_a_stream_that_waits_for_another_worker_is_kept_alive(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "KEEP_ALIVE_SECONDS", 0.01)
    async with (
        FakeWorker(
            "w1", once(sends(PREVIEWS[0], LEFT_OFF), refuses(503, "worker_draining"))
        ).serving() as one,
        FakeWorker("w2", sends(PREVIEWS[1], PICTURES[0])).serving() as other,
    ):
        gateway.set_fleet(one.view())
        async with gateway.session.post(
            f"{gateway.url}/v1/images/generations", json=STREAM | {"partial_images": 2}
        ) as response:
            assert await response.content.readexactly(len(PREVIEWS[0])) == PREVIEWS[0]
            for _ in range(2):
                assert await response.content.readexactly(len(course.KEEP_ALIVE)) == course.KEEP_ALIVE
            gateway.set_fleet(other.view())
            assert (await response.read()).endswith(PREVIEWS[1] + PICTURES[0])


async def test_a_caller_that_leaves_while_its_stream_waits_leaves_nothing(gateway: Harness) -> None:
    async with FakeWorker(
        "w1", once(sends(PREVIEWS[0], LEFT_OFF), refuses(503, "worker_draining"))
    ).serving() as one:
        gateway.set_fleet(one.view())
        async with gateway.session.post(
            f"{gateway.url}/v1/images/generations", json=STREAM | {"partial_images": 2}
        ) as response:
            assert await response.content.readexactly(len(PREVIEWS[0])) == PREVIEWS[0]
            await until_held(gateway, 1)
            response.close()
        await until_held(gateway, 0)
        await until(lambda: gateway.log)
    assert gateway.log[0]["status"] == 499
    assert gateway.gateway.bodies.used == 0


def test_a_checkpoint_goes_beside_a_request_of_any_size() -> None:
    image = bytes(46 * 2**20)
    body = work.WorkerRequest(model="m", prompt="p", seed=1, pool_model="n", quality="medium", image=image)
    reply = json.dumps({"error": {"code": "interrupted"}, "checkpoint": "A" * (64 * 2**20)}).encode()
    found = resume.read_interruption(reply)
    assert found is not None
    assert b'"resume":"AAA' in work.encode(body, 0.0, resume=found.checkpoint)
    body.image = bytes(49 * 2**20)
    with pytest.raises(ApiError, match="over 67108864 bytes"):
        work.encode(body, 0.0, resume=found.checkpoint)


def test_a_checkpoint_that_no_worker_takes_is_not_kept() -> None:
    kept = resume.Checkpoint(Budget(2**30))
    kept.keep("m", msgspec.Raw(b'"' + bytes(resume.MAX_CHECKPOINT_BYTES) + b'"'))
    assert kept.of("m") is None


NOT_GIVEN_UP = [
    b"",
    b"{",
    b"[]",
    b'{"error": {"code": "worker_draining"}}',
    b'{"error": null}',
    b'{"stepsDone": 3}',
]


@pytest.mark.parametrize("body", NOT_GIVEN_UP)
def test_other_replies_are_no_interruption(body: bytes) -> None:
    assert resume.read_interruption(body) is None


def test_what_one_worker_sends_twice_passes_twice() -> None:
    """Only another worker repeats what was sent."""
    delivered = Delivered()
    delivered.begin()
    assert [delivered.passes(PREVIEWS[0]) for _ in range(2)] == [True, True]
    delivered.begin()
    assert [delivered.passes(PREVIEWS[0]) for _ in range(3)] == [False, False, True]
    assert delivered.passes(b": keep-alive\n\n")
    assert delivered.pictures == 0

"""The line in a whole gateway: what waits here, what goes to workers, and in which order."""

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.unit.gateway.builders import (
    BOTH,
    PROMPT,
    Busy,
    FakeWorker,
    Harness,
    draws,
    image_reply,
    make_model,
    make_pool,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory
from tests.unit.gateway.test_waiting import until_held


class Slow:
    """A worker that draws one picture after the other, each when it is told to."""

    def __init__(self, seconds: float = 2.0) -> None:
        self.begun: list[str] = []
        self.waiting: list[asyncio.Event] = []
        self.seconds = seconds

    async def __call__(self, body: dict[str, Any]) -> web.StreamResponse:
        self.begun.append(body["prompt"])
        done = asyncio.Event()
        self.waiting.append(done)
        await done.wait()
        self.waiting.remove(done)
        left = f"{len(self.waiting) * self.seconds}"
        return web.json_response(image_reply(body["seed"]), headers={"x-imagefleet-work-seconds": left})

    def finish(self) -> None:
        self.waiting[0].set()

    def state(self) -> dict[str, Any]:
        """What the worker says when it is asked."""
        resident = {"model": "shapes-1", "state": "Resident"}
        return {"workSeconds": len(self.waiting) * self.seconds, "models": [resident]}


async def arrived(gateway: Harness, drawn: Slow, count: int) -> None:
    await until(lambda: len(drawn.begun) + len(gateway.gateway.line) == count)


async def left(requests: list[asyncio.Task[Any]], count: int) -> None:
    await until(lambda: sum(not request.done() for request in requests) == count)


# Pictures of 2.097 s: two of them are more than the 3 s that a worker gets ahead.
SLOW = make_model(rate=0.2)


async def test_a_burst_waits_here_and_a_new_worker_gets_its_part(gateway: Harness) -> None:
    old, new = Slow(), Slow()
    async with (
        FakeWorker("w1", old, old.state).serving() as one,
        FakeWorker("w2", new, new.state).serving() as other,
    ):
        gateway.set_fleet(one.view(), models=(SLOW,))
        burst = [asyncio.create_task(gateway.post(PROMPT)) for _ in range(6)]
        await until_held(gateway, 4)
        await until(lambda: len(old.begun) == 2)
        assert json.loads((await gateway.get("/v1/gateway"))[1])["models"][0]["heldWorkSeconds"] > 8
        gateway.set_fleet(one.view(), other.view(), models=(SLOW,))
        await until(lambda: len(new.begun) == 2)
        assert len(gateway.gateway.line) == 2
        await until(lambda: len(old.begun) == 2)
        while not all(task.done() for task in burst):
            for worker in (old, new):
                if worker.waiting:
                    worker.finish()
            await asyncio.sleep(0.01)
        assert {(await task)[0] for task in burst} == {200}


async def test_what_waits_goes_on_in_its_order(gateway: Harness) -> None:
    drawn = Slow()
    async with FakeWorker("w1", drawn, drawn.state).serving() as worker:
        gateway.set_fleet(worker.view(), models=(SLOW,))
        asked: list[tuple[str, dict[str, Any]]] = [
            ("running", {}),
            ("at hand", {}),
            ("batch", {"priority": "batch"}),
            ("late", {"deadline_seconds": 0.01}),
            ("in time", {}),
        ]
        requests = []
        for number, (prompt, fields) in enumerate(asked):
            body = PROMPT | {"prompt": prompt} | fields
            requests.append(asyncio.create_task(gateway.post(body)))
            await arrived(gateway, drawn, number + 1)
        while not all(task.done() for task in requests):
            if drawn.waiting:
                drawn.finish()
            await asyncio.sleep(0.01)
    assert drawn.begun == ["running", "at hand", "in time", "late", "batch"]


async def test_a_hot_model_does_not_wait_for_the_load_of_another(gateway: Harness) -> None:
    """A request for a model that must be loaded is on its way to the only worker; another's goes there at once."""
    loads = Busy()

    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        return await (loads(body) if body["model"] == "shapes-2" else draws(body))

    pool = make_pool(offers={"shapes": {"shapes-1": 100.0}, "rare": {"shapes-2": 100.0}})
    models = (SLOW, make_model("shapes-2", load_seconds=25.0))
    async with FakeWorker("w1", answer).serving() as worker:
        view = worker.view(placement=(("shapes-1", True), ("shapes-2", False)))
        gateway.set_fleet(view, pools=(pool,), models=models)
        await until(lambda: gateway.gateway.fleet.snapshot.routes)
        cold = asyncio.create_task(gateway.post(PROMPT | {"model": "rare"}))
        await loads.started.wait()
        status, _, _ = await gateway.post(PROMPT)
        assert status == 200
        assert gateway.log[-1]["held_seconds"] == 0
        cold.cancel()
        await loads.cancelled.wait()


BUSY = {"workSeconds": 50.0, "models": [{"model": "shapes-1", "state": "Resident"}]}


async def test_a_request_for_which_there_is_no_room_in_time_learns_when_to_come_back(
    impatient: Harness,
) -> None:
    async with FakeWorker(state=BUSY).serving() as worker:
        impatient.set_fleet(worker.view())
        await until(lambda: impatient.gateway.fleet.loads["uid-w1"].heard_at > 0)
        status, headers, body = await impatient.post(PROMPT)
    assert (status, body["error"]["code"], body["error"]["type"]) == (429, "queue_full", "rate_limit_error")
    assert headers["retry-after"] == "50"
    assert worker.requests == []


async def test_who_may_not_wait_is_not_refused_because_others_wait(start_gateway: HarnessFactory) -> None:
    offers = {"shapes": {"shapes-1": 100.0}, "rare": {"shapes-2": 100.0}}
    async with start_gateway(IMAGEFLEET_HOLD_SECONDS="0") as gateway, FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view(), pools=(make_pool(offers=offers),), models=BOTH)
        waits = asyncio.create_task(gateway.post(PROMPT | {"model": "rare", "priority": "batch"}))
        await until_held(gateway, 1)
        assert (await gateway.post(PROMPT))[0] == 200
        waits.cancel()
        await until_held(gateway, 0)


async def test_a_worker_of_which_others_make_use_is_asked_what_it_has_left(gateway: Harness) -> None:
    """Its work is another gateway's, so that no reply says here when it is done."""
    async with FakeWorker(state=BUSY).serving() as worker:
        gateway.set_fleet(worker.view())
        await until(lambda: gateway.gateway.fleet.loads["uid-w1"].heard_at > 0)
        request = asyncio.create_task(gateway.post(PROMPT))
        await until_held(gateway, 1)
        worker.state = BUSY | {"workSeconds": 0.0}
        assert (await request)[0] == 200


async def test_a_worker_with_a_full_queue_gets_no_more(gateway: Harness) -> None:
    drawn = Slow(0.0)
    full = {"workSeconds": 0.0, "queueLimit": 2, "models": [{"model": "shapes-1", "state": "Resident"}]}
    async with FakeWorker("w1", drawn, state=full).serving() as worker:
        gateway.set_fleet(worker.view())
        await until(lambda: gateway.gateway.fleet.loads["uid-w1"].queue_limit == 2)
        requests = [asyncio.create_task(gateway.post(PROMPT)) for _ in range(3)]
        await until_held(gateway, 1)
        await until(lambda: len(drawn.begun) == 2)
        for count in (2, 1, 0):
            drawn.finish()
            await left(requests, count)


async def test_a_batch_of_large_pictures_is_filled(gateway: Harness) -> None:
    """Three pictures of 10 s are drawn together: one is more than 3 s of work, and yet two more go there."""
    drawn = Slow(10.0)
    large = make_model(rate=1.0, batches=(((512, 512), 3),))
    async with FakeWorker("w1", drawn, drawn.state).serving() as worker:
        gateway.set_fleet(worker.view(), models=(large,))
        requests = [asyncio.create_task(gateway.post(PROMPT)) for _ in range(5)]
        await until_held(gateway, 2)
        await until(lambda: len(drawn.begun) == 3)
        for request in requests:
            request.cancel()
        await until_held(gateway, 0)

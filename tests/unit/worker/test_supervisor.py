"""Admission: what is refused, with which words, and when to come back."""

import asyncio
import math
from pathlib import Path
from typing import Any, cast

import pytest
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import UNKNOWN_LOAD_SECONDS, State
from imagefleet_runtime.worker.policy import Policy
from imagefleet_runtime.worker.settings import CacheSettings, Settings
from imagefleet_runtime.worker.supervisor import DEADLINE_SECONDS, Supervisor
from imagefleet_runtime.worker.waiting import Job
from prometheus_client import generate_latest

from tests.unit.worker.engine_fakes import LOADED, PlayedEngine


class NoDevices:
    def devices(self) -> list[Any]:
        return []


def settings(**changed: Any) -> Settings:
    known: dict[str, Any] = {
        "namespace": "team-a",
        "pool": "images",
        "pod": "images-1",
        "caller_public_key": "",
        "host": "",
        "port": 0,
        "max_request_seconds": 300.0,
        "load_seconds": 600.0,
        "queue_limit": 2,
        "torch_threads": 1,
        "cache": CacheSettings(Path("/nowhere"), 0, 10**9),
    }
    return Settings(**(known | changed))


class Office:
    """A supervisor whose loops run only where a test says so."""

    def __init__(self, **changed: Any) -> None:
        self.supervisor = Supervisor(settings(**changed), cast(Any, None), cast(Any, NoDevices()))
        entry = {"model": "shapes-1", "path": "/m", "digest": "sha256:" + "0" * 64}
        self.supervisor.apply(Policy.model_validate({"models": [entry]}))
        model = self.supervisor.known_model("shapes-1")
        assert model is not None
        self.model: Model = model

    def serve(self) -> PlayedEngine:
        engine = PlayedEngine()
        self.model.loaded(LOADED)
        self.model.rate = 1.0 / 10.48576  # 1 s for a picture of 512x512, 20 steps, guided
        self.model.state, self.model.engine = State.RESIDENT, engine.handle
        return engine

    def submit(self, **fields: Any) -> Job:
        body = GenerateBody.model_validate({"model": "shapes-1", "prompt": "x", **fields})
        return self.supervisor.submit(body, "id")

    def refusal(self, **fields: Any) -> ApiError:
        with pytest.raises(ApiError) as error:
            self.submit(**fields)
        return error.value


async def test_a_request_without_a_wish_is_interactive_and_wanted_within_half_a_minute() -> None:
    office = Office()
    plain = office.submit()
    assert plain.priority == "interactive"
    assert plain.deadline - plain.arrived == pytest.approx(DEADLINE_SECONDS["interactive"]) == 30.0


async def test_a_request_of_class_batch_may_take_an_hour_or_what_it_says() -> None:
    office = Office()
    batch = office.submit(priority="batch")
    assert batch.deadline - batch.arrived == pytest.approx(3600.0)
    urgent = office.submit(priority="batch", deadline_seconds=5.0)
    assert urgent.deadline - urgent.arrived == pytest.approx(5.0)


async def test_a_full_queue_says_when_the_first_place_will_be_free_not_when_all_is_done() -> None:
    office = Office()
    engine = office.serve()
    drawing = asyncio.create_task(office.supervisor._dispatcher.run())
    office.submit(steps=100)  # 5 s
    await engine.draw()
    for _ in range(2):
        office.submit(width=1024, height=1024)  # 4 s each, when the first is done
    refused = office.refusal(width=64, height=64)
    assert (refused.status, refused.code) == (429, "queue_full")
    assert refused.retry_after == pytest.approx(5.0, abs=0.1)
    assert office.supervisor.work_seconds() == pytest.approx(13.0, abs=0.1)
    drawing.cancel()
    engine.process.kill()


async def test_a_request_that_need_not_wait_is_taken_by_a_full_queue() -> None:
    office = Office()
    engine = office.serve()
    drawing = asyncio.create_task(office.supervisor._dispatcher.run())
    office.submit()
    await engine.draw()
    for _ in range(2):
        office.submit(width=1024, height=1024)
    office.submit(seed=5)
    assert (await engine.draw()).seed == 5
    drawing.cancel()
    engine.process.kill()


async def test_where_all_wait_for_a_load_a_place_is_free_when_it_is_done() -> None:
    office = Office()
    office.model.load_seconds = 7.0
    office.submit()
    office.submit()
    assert office.refusal().retry_after == 7.0


async def test_where_nobody_knows_how_long_that_takes_a_guess_is_made() -> None:
    office = Office()
    office.submit()
    office.submit()
    assert office.refusal().retry_after == UNKNOWN_LOAD_SECONDS


async def test_a_queue_of_none_takes_what_begins_at_once_and_no_more() -> None:
    office = Office(queue_limit=0)
    engine = office.serve()
    drawing = asyncio.create_task(office.supervisor._dispatcher.run())
    office.submit(n=3)
    await engine.draws(3)
    office.submit()
    await engine.draw()  # the fourth, and the last that gains
    assert office.refusal().code == "queue_full"
    drawing.cancel()
    engine.process.kill()


async def test_a_size_that_cannot_fit_is_refused_before_it_waits() -> None:
    office = Office()
    office.serve().process.kill()
    office.model.footprint.ran_out(2048, 2048, 1)
    refused = office.refusal(width=2048, height=2048)
    assert (refused.status, refused.code, refused.param) == (400, "size_exceeds_memory", "size")
    assert office.supervisor.state()["models"][0]["queued"] == 0


async def test_before_the_first_load_a_size_is_taken_as_it_is() -> None:
    Office().submit(width=8192, height=8192)


async def test_refusals_are_counted_by_code_and_unknown_models_without_their_name() -> None:
    office = Office()
    office.refusal(width=512)
    office.refusal(model="nobody-knows-it")
    text = generate_latest(office.supervisor.metrics.registry).decode()
    rest = 'namespace="team-a",pool="images"} 1.0'
    assert f'imagefleet_worker_refused_total{{code="invalid_value",model="shapes-1",{rest}' in text
    assert f'imagefleet_worker_refused_total{{code="model_not_allowed",model="",{rest}' in text
    assert "nobody-knows-it" not in text


async def test_a_request_that_is_cancelled_while_it_waits_is_forgotten_and_counted() -> None:
    office = Office()
    job = office.submit()
    office.supervisor.cancel(job)
    assert job.result.cancelled()
    assert office.supervisor.state()["models"][0]["queued"] == 0
    text = generate_latest(office.supervisor.metrics.registry).decode()
    labels = 'model="shapes-1",namespace="team-a",pool="images",reason="caller_left"'
    assert f"cancelled_total{{{labels}}} 1.0" in text


async def test_a_drain_refuses_what_waits_and_what_comes() -> None:
    office = Office()
    job = office.submit()
    await office.supervisor.drain()
    with pytest.raises(ApiError) as error:
        await job.result
    assert error.value.code == office.refusal().code == "worker_draining"


async def test_work_left_counts_loads_that_requests_wait_for() -> None:
    office = Office()
    office.model.load_seconds = 7.0
    assert office.supervisor.work_seconds() == 0.0
    office.submit()
    assert office.supervisor.work_seconds() == 7.0
    assert math.isfinite(office.supervisor.state()["workSeconds"])


async def test_it_says_what_it_holds_and_what_is_on_its_way() -> None:
    office = Office()
    assert office.supervisor.held() == ""
    office.model.load_seconds, office.model.state = 7.0, State.LOADING
    assert office.supervisor.held() == "shapes-1=7.0"
    engine = office.serve()
    assert office.supervisor.held() == "shapes-1"
    engine.process.kill()


async def test_a_request_whose_model_is_withdrawn_while_it_waits_may_go_elsewhere() -> None:
    office = Office()
    waiting = office.submit()
    office.supervisor.apply(Policy(models=[]))
    with pytest.raises(ApiError) as error:
        await waiting.result
    assert (error.value.status, error.value.code) == (404, "model_not_allowed")

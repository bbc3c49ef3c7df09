"""Demand and metrics."""

import json
import re
from pathlib import Path

import pytest
from imagefleet_runtime.gateway.metrics import NO_KEY, Metrics
from imagefleet_runtime.gateway.snapshot import build

from tests.unit.gateway.builders import (
    PROMPT,
    FakeWorker,
    Harness,
    make_model,
    make_pool,
    make_worker,
    until,
)

DOCS = Path(__file__).parents[3] / "docs/gateway.md"
SHAPES = ("art", "thumbs", "shapes-1")


async def test_demand_counts_work_once(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        for _ in range(2):
            await gateway.post(PROMPT)
        _, text = await gateway.get("/v1/gateway")
    (entry,) = json.loads(text)["models"]
    # Two pictures of 10.48576 megapixel-steps at 0.01 s.
    assert entry.pop("arrivedWorkSeconds") == pytest.approx(0.2097152)
    assert entry == {"namespace": "art", "pool": "thumbs", "model": "shapes-1", "held": 0, "running": 0}


async def test_metrics_name_only_what_the_cluster_offers(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT)
        await gateway.post(PROMPT | {"model": "no-such-model"})
        _, text = await gateway.get("/metrics")
    served = (
        'imagefleet_gateway_requests_total{code="200",model="shapes-1",namespace="art",pool="thumbs"} 1.0'
    )
    assert served in text
    assert 'imagefleet_gateway_requests_total{code="404",model="",namespace="",pool=""} 1.0' in text
    assert "no-such-model" not in text


async def test_metrics_of_what_is_gone_are_forgotten(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT)
        gateway.set_fleet(worker.view(), pools=(make_pool("other"),))
        await until(lambda: "other" in str(gateway.gateway.fleet.snapshot.routes))
        assert 'pool="thumbs"' not in (await gateway.get("/metrics"))[1]
        assert json.loads((await gateway.get("/v1/gateway"))[1])["models"] == []


def test_the_documented_metrics_are_those_there_are() -> None:
    types = re.findall(r"# TYPE (imagefleet_\w+)", Metrics().expose().decode())
    documented = re.findall(r"`(imagefleet_gateway_\w+)`", DOCS.read_text())
    assert set(documented) == {name for name in types if not name.endswith("_created")}


async def test_a_model_that_was_never_served_is_forgotten_too(gateway: Harness) -> None:
    gateway.set_fleet(make_worker(), models=(make_model(stalled="its files changed"),))
    assert (await gateway.post(PROMPT))[0] == 503
    assert "shapes-1" in (await gateway.get("/metrics"))[1]
    gateway.set_fleet(make_worker(), pools=())
    await until(lambda: not gateway.gateway.fleet.snapshot.routes)
    assert "shapes-1" not in (await gateway.get("/metrics"))[1]


def test_what_still_runs_is_kept_until_it_ended() -> None:
    metrics = Metrics()
    metrics.demand(SHAPES).running = 1
    metrics.keep([])
    assert [key for key, _ in metrics.demands()] == [SHAPES]
    metrics.demand(SHAPES).running = 0
    metrics.ended(SHAPES, 200, 1.0, 0.0)
    metrics.ended(NO_KEY, 404, 1.0, 0.0)
    metrics.keep([])
    assert b"shapes-1" not in metrics.expose()
    assert b'code="404"' in metrics.expose(), "requests for no model are counted for good"


def test_what_is_offered_is_kept() -> None:
    metrics = Metrics()
    metrics.ended(SHAPES, 200, 1.0, 0.0)
    metrics.keep(build([make_worker()], [make_pool()], [make_model()]).routes.values())
    assert b"shapes-1" in metrics.expose()

"""Demand and metrics."""

import json
import re
from pathlib import Path

import pytest
from imagefleet_runtime.gateway.figures import WorkerFigures
from imagefleet_runtime.gateway.metrics import Metrics
from imagefleet_runtime.gateway.resources import NO_KEY, PoolModel
from imagefleet_runtime.gateway.snapshot import Route, build

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


def offered(*entries: PoolModel) -> list[Route]:
    """Routes of a pool with these entries."""
    return list(build([make_worker()], [make_pool(models=entries)], [make_model()]).routes.values())


def lines(metrics: Metrics, name: str) -> list[str]:
    return sorted(line for line in metrics.expose().decode().splitlines() if line.startswith(name + "{"))


def test_the_split_is_told_as_the_pool_says_it() -> None:
    metrics = Metrics()
    metrics.keep(offered(PoolModel("shapes", (("shapes-1", 95.0), ("shapes-2", 5.0)))))
    assert lines(metrics, "imagefleet_gateway_traffic_percent") == [
        'imagefleet_gateway_traffic_percent{model="shapes-1",name="shapes",namespace="art",pool="thumbs"} 95.0',
        'imagefleet_gateway_traffic_percent{model="shapes-2",name="shapes",namespace="art",pool="thumbs"} 5.0',
    ]
    assert lines(metrics, "imagefleet_gateway_suspended") == []
    metrics.keep([])
    assert lines(metrics, "imagefleet_gateway_traffic_percent") == []


def test_a_suspension_is_told_as_long_as_it_lasts() -> None:
    metrics = Metrics()
    metrics.keep(offered(PoolModel("shapes", (("shapes-1", 100.0),), suspended_models=("shapes-2",))))
    assert lines(metrics, "imagefleet_gateway_suspended") == [
        'imagefleet_gateway_suspended{model="shapes-2",name="shapes",namespace="art",pool="thumbs"} 1.0'
    ]
    metrics.keep(offered(PoolModel("shapes", (("shapes-1", 100.0),), suspended=True)))
    assert lines(metrics, "imagefleet_gateway_suspended") == [
        'imagefleet_gateway_suspended{model="shapes-1",name="shapes",namespace="art",pool="thumbs"} 1.0'
    ]
    assert lines(metrics, "imagefleet_gateway_traffic_percent") == [], "what is suspended has no traffic"
    metrics.keep(offered(PoolModel("shapes", (("shapes-1", 100.0),))))
    assert lines(metrics, "imagefleet_gateway_suspended") == []


CANARY = ("art", "thumbs", "shapes-2")
KEPT_BY: dict[str, PoolModel] = {
    "a share of the traffic": PoolModel("shapes", (("shapes-2", 100.0),)),
    "a share of copies": PoolModel("shapes", (("shapes-1", 100.0),), mirror=(("shapes-2", 5.0),)),
    "its suspension": PoolModel("shapes", (("shapes-1", 100.0),), suspended_models=("shapes-2",)),
}


@pytest.mark.parametrize("entry", KEPT_BY.values(), ids=KEPT_BY.keys())
def test_series_of_a_model_are_kept_by(entry: PoolModel) -> None:
    metrics = Metrics()
    metrics.mirrored(CANARY, "drawn")
    metrics.cache_hit(CANARY)
    metrics.fell_back(CANARY, "model_suspended")
    metrics.looked_at(CANARY, WorkerFigures(checked=2, unsafe=1, quality=0.5))
    metrics.keep(offered(entry))
    text = metrics.expose().decode()
    labels = 'model="shapes-2",namespace="art"'
    assert f'imagefleet_gateway_mirrored_total{{{labels},outcome="drawn",pool="thumbs"}} 1.0' in text
    assert f'imagefleet_gateway_cache_hits_total{{{labels},pool="thumbs"}} 1.0' in text
    assert f'fallbacks_total{{{labels},pool="thumbs",reason="model_suspended"}} 1.0' in text
    assert f'imagefleet_gateway_pictures_checked_total{{{labels},pool="thumbs"}} 2.0' in text
    assert f'imagefleet_gateway_pictures_unsafe_total{{{labels},pool="thumbs"}} 1.0' in text
    assert f'imagefleet_gateway_quality_score_bucket{{le="0.4",{labels},pool="thumbs"}} 0.0' in text
    assert f'imagefleet_gateway_quality_score_bucket{{le="0.5",{labels},pool="thumbs"}} 1.0' in text
    metrics.keep([])
    assert "shapes-2" not in metrics.expose().decode()


def test_what_no_check_looked_at_has_no_series() -> None:
    metrics = Metrics()
    metrics.looked_at(SHAPES, WorkerFigures(run_seconds=0.2))
    assert b"shapes-1" not in metrics.expose()

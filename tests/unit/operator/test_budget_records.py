"""Reading what budgets need: the spec, pods' times, gateways' counters; and telling Prometheus."""

from typing import Any

import pytest
import yaml
from imagefleet_operator.budget_metrics import BudgetMetrics
from imagefleet_operator.plan.spend_types import BudgetSpec, Counted
from imagefleet_operator.store.counts import Counts, read_counts
from imagefleet_operator.store.figures import InvalidFiguresError
from imagefleet_operator.store.records import pod_record, pool_record

from tests.integration.manifests import FOLDER
from tests.unit.operator import make

POOL = ("studio", "pictures")
KEY = ("shapes-1", "acme")


def test_limits_become_gpu_seconds_and_the_lower_one_holds() -> None:
    manifest = yaml.safe_load((FOLDER / "good" / "pool-budget.yaml").read_text())
    record = pool_record({**manifest, "metadata": {"name": "p", "namespace": "ns", "uid": "u"}})
    assert record.spec is not None
    assert record.spec.budget == BudgetSpec(
        limit=80 * 3_600.0,
        price=2.5,
        alert_at=("0.5", "0.8", "1"),
        on_exhausted="degrade",
        reduce_at=0.75,
        tenants={"studio": 36_000.0, "other": 18_000.0},
    )


def pod(phase: str = "Running", **status: Any) -> dict[str, Any]:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-28T10:00:00Z"}
    return {
        "metadata": {"namespace": "ns", "name": "a", "uid": "u", "labels": {"imagefleet.dev/pool": "p"}},
        "status": {"phase": phase, "conditions": [scheduled], **status},
    }


TEN = 1_795_860_000.0


def test_a_pod_counts_from_its_scheduling_to_its_last_containers_end() -> None:
    ended = {"state": {"terminated": {"finishedAt": "2026-11-28T10:05:00Z", "exitCode": 0}}}
    waiting = pod(conditions=[{"type": "PodScheduled", "status": "False"}])
    evicted = pod("Failed")
    times = [
        (record.scheduled_at, record.ended_at)
        for record in map(pod_record, [pod(), pod("Failed", containerStatuses=[ended]), waiting, evicted])
    ]
    assert times == [(TEN, 0.0), (TEN, TEN + 301), (0.0, 0.0), (TEN, TEN + 1)]


def test_a_pod_tells_by_when_it_must_have_ended() -> None:
    leaving = pod()
    leaving["metadata"]["deletionTimestamp"] = "2026-11-28T10:01:00Z"
    assert pod_record(leaving).deletion_at == TEN + 60


def body(work: Any = 5.0, started: str = "1", **more: Any) -> dict[str, Any]:
    entry = {"namespace": "studio", "pool": "pictures", "model": "shapes-1", "tenant": "acme"}
    return {"started": started, "tenants": [{**entry, "workSeconds": work, "requests": 2, **more}]}


@pytest.mark.parametrize(
    ("said", "want"),
    [
        (body(inFlightSeconds=2.0), {POOL: Counted({KEY: 5.0}, {KEY: 2.0})}),
        (body(), {POOL: Counted({KEY: 5.0})}),
        (body(work=-1.0), {}),
        (body(work="5"), {}),
        (body(work=None), {}),
        (body(work=float("nan")), {}),
        ({"pod": "g"}, {}),
    ],
)
def test_what_is_no_number_is_no_opinion(said: Any, want: Any) -> None:
    assert read_counts(said)[1] == want


def test_what_is_no_report_is_an_error() -> None:
    with pytest.raises(InvalidFiguresError):
        read_counts({"tenants": [{"pool": "p"}]})


def test_counters_are_kept_by_process() -> None:
    counts = Counts()

    def put(work: float, started: str) -> set[tuple[str, str]]:
        return counts.put("uid", *read_counts(body(work, started, inFlightSeconds=1.0)))

    assert put(5.0, "1") == {POOL}
    assert put(5.0, "1") == set()
    assert put(2.0, "2") == {POOL}
    assert counts.of(*POOL) == {
        "uid/1": Counted({KEY: 5.0}),
        "uid/2": Counted({KEY: 2.0}, {KEY: 1.0}),
    }
    counts.drop("uid")
    assert counts.of(*POOL)["uid/2"] == Counted({KEY: 2.0}), "it drew what it drew, and draws nothing more"
    assert counts.of("studio", "others") == {}


def test_metrics_say_what_the_statuses_do() -> None:
    spend = {
        "gpuHours": 1.0,
        "cost": 2.5,
        "models": [{"model": "shapes-1", "busyGpuHours": 0.5}],
        "tenants": [{"name": "acme", "gpuHours": 0.25}],
    }
    status = {"spend": spend, "budget": {"state": "Degraded", "limitGpuHours": 2.0, "ceiling": 3}}
    pools = [make.pool(status=status, budget=BudgetSpec(tenants={"acme": 1_800.0})), make.pool()]
    families = BudgetMetrics(lambda: pools).collect()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    where = ("ns", "thumbs")
    assert found == {
        ("imagefleet_spend_held_gpu_seconds_total", *where): 3_600.0,
        ("imagefleet_spend_gpu_seconds_total", *where, "shapes-1"): 1_800.0,
        ("imagefleet_spend_tenant_gpu_seconds_total", *where, "acme"): 900.0,
        ("imagefleet_spend_cost_total", *where): 2.5,
        ("imagefleet_budget_limit_gpu_seconds", *where): 7_200.0,
        ("imagefleet_budget_used_ratio", *where): 0.5,
        ("imagefleet_budget_tenant_used_ratio", *where, "acme"): 0.5,
        ("imagefleet_budget_state", *where, "Within"): 0.0,
        ("imagefleet_budget_state", *where, "Throttled"): 0.0,
        ("imagefleet_budget_state", *where, "Degraded"): 1.0,
        ("imagefleet_budget_state", *where, "Exhausted"): 0.0,
        ("imagefleet_budget_ceiling_replicas", *where): 3.0,
    }

"""What a pool's manifest says of rollouts, as plans have it; and whom a pool's change concerns while it moves."""

from math import log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator import api
from imagefleet_operator.kinds import MODEL, POOL
from imagefleet_operator.observe import observe_pool
from imagefleet_operator.plan.rollout_types import (
    DEFAULT_TOLERANCES,
    AnalysisSpec,
    Analyze,
    Experiment,
    Metric,
    Mirror,
    OnInconclusive,
    OnUnsafe,
    Pause,
    RolloutSpec,
    SetWeight,
    Shadow,
    Slo,
)
from imagefleet_operator.plan.types import Parent, PoolModel, PoolSpec
from imagefleet_operator.store.records import models_of_pool, pool_record
from imagefleet_operator.store.rollout_records import entry_record
from imagefleet_operator.store.store import Store

Obj = dict[str, Any]
POOL_KEY = ("pool", "ns", "p")
SERVING = {"models": [{"name": "x", "stable": "old", "canary": "m"}]}


def pool_obj(version: int = 1, entry: Obj | None = None, spec: Obj | None = None, **parts: Any) -> Obj:
    metadata = {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": str(version)}
    models = [{"name": "x", "model": "m", **(entry or {})}]
    return {
        "metadata": metadata | parts.pop("metadata", {}),
        "spec": {"replicas": 1, "models": models, **(spec or {})},
        **parts,
    }


def model_obj(name: str, version: int = 1, **parts: Any) -> Obj:
    metadata = {"name": name, "namespace": "ns", "uid": f"{name}-u", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"source": {"uri": "file:///m"}}, **parts}


def entry_of(**entry: Any) -> PoolModel:
    return entry_record(api.PoolModel.model_validate({"name": "x", "model": "m", **entry}))


def spec_of(record: Parent[PoolSpec]) -> PoolSpec:
    assert record.spec is not None, record.error
    return record.spec


@pytest.mark.parametrize("entry", [{}, {"rollout": {}, "slo": {}, "experiments": []}, {"suspend": False}])
def test_what_is_absent_is_the_default_of_plans(entry: Obj) -> None:
    assert entry_of(**entry) == PoolModel("x", "m")


def test_an_entry_is_read_with_all_that_may_answer_under_its_name() -> None:
    read = entry_of(
        experiments=[
            {
                "name": "a",
                "arms": [{"model": "m2", "percent": 20}, {"model": "m3", "percent": 5}],
                "seconds": 60,
            },
            {"name": "b", "arms": [{"model": "m4", "percent": 1}]},
        ],
        shadow={"model": "m2", "percent": 10},
        suspend=True,
    )
    assert read.experiments == (Experiment("a", (("m2", 20), ("m3", 5)), 60.0), Experiment("b", (("m4", 1),)))
    assert (read.shadow, read.suspend) == (Shadow("m2", 10), True)
    assert read.references == ("m", "m2", "m3", "m4")


def test_the_steps_keep_their_order() -> None:
    steps = [{"mirror": {"percent": 20}}, {"setWeight": 5}, {"pause": {"seconds": 60}}, {"analysis": {}}]
    more = [{"mirror": {"percent": 0}}, {"setWeight": 0}, {"pause": {}}]
    assert entry_of(rollout={"steps": steps + more}).rollout.steps == (
        *(Mirror(20), SetWeight(5), Pause(60.0), Analyze()),
        *(Mirror(0), SetWeight(0), Pause(None)),
    )


def test_texts_become_numbers() -> None:
    read = entry_of(
        rollout={
            "analysis": {"minRequests": 7, "maxWaitSeconds": 8, "onInconclusive": "Abort"},
            "progressDeadlineSeconds": 9,
            "pauseBurnRate": "1.5",
            "abortBurnRate": "14.4",
        },
        slo={
            "latencySeconds": {"p95": "1.5"},
            "successRate": "0.999",
            "safetyPassRate": "0.99",
            "onUnsafe": "Suspend",
        },
    )
    analysis = AnalysisSpec(min_requests=7, max_wait_seconds=8.0, on_inconclusive=OnInconclusive.ABORT)
    assert read.rollout == RolloutSpec((), analysis, 9.0, 1.5, 14.4)
    assert read.slo == Slo(1.5, 0.999, 0.99, OnUnsafe.SUSPEND)


@pytest.mark.parametrize(
    ("analysis", "want"),
    [
        pytest.param({}, DEFAULT_TOLERANCES, id="none named: all"),
        pytest.param({"minRequests": 7}, DEFAULT_TOLERANCES, id="still none named"),
        pytest.param({"errorRate": {"maxIncrease": "0.02"}}, {Metric.ERROR_RATE: 0.02}, id="one"),
        pytest.param({"latency": {"maxRatio": "1.25"}}, {Metric.LATENCY: log(1.25)}, id="a ratio"),
        pytest.param(
            {"latency": {}, "qualityScore": {}},
            {Metric.LATENCY: log(1.25), Metric.QUALITY_SCORE: 0.05},
            id="named without a bound",
        ),
        pytest.param(
            {
                "errorRate": {},
                "outOfMemoryRate": {"maxIncrease": "0.01"},
                "safetyPassRate": {"maxDecrease": "1"},
                "latency": {"maxRatio": "2"},
                "qualityScore": {"maxDecrease": "0.1"},
            },
            {
                Metric.ERROR_RATE: 0.05,
                Metric.OUT_OF_MEMORY_RATE: 0.01,
                Metric.SAFETY_PASS_RATE: 1.0,
                Metric.LATENCY: log(2),
                Metric.QUALITY_SCORE: 0.1,
            },
            id="all",
        ),
    ],
)
def test_the_metrics_that_are_named_are_judged(analysis: Obj, want: dict[Metric, float]) -> None:
    assert entry_of(rollout={"analysis": analysis}).rollout.analysis.tolerances == pytest.approx(want)


@pytest.mark.parametrize(
    ("metric", "field", "bound", "texts"),
    [
        (Metric.LATENCY, "latency", "maxRatio", r"[0-9]{1,7}([.][0-9]{1,7})?"),
        (Metric.ERROR_RATE, "errorRate", "maxIncrease", r"[01]([.][0-9]{1,7})?"),
    ],
)
@given(data=st.data())
def test_every_tolerance_that_the_api_takes_can_be_kept_and_missed(
    metric: Metric, field: str, bound: str, texts: str, data: st.DataObject
) -> None:
    """Over 0, or nothing would ever pass; finite, or nothing would ever fail."""
    text = data.draw(st.from_regex(rf"\A{texts}\Z"))
    try:
        read = entry_of(rollout={"analysis": {field: {bound: text}}})
    except ValueError:
        return
    assert 0 < read.rollout.analysis.tolerances[metric] <= (log(1e6) if metric is Metric.LATENCY else 1)


def test_a_pool_is_read_with_its_kill_switch_and_its_checks() -> None:
    checks = {"checks": {"safety": "shapes", "quality": "scorer"}}
    spec = spec_of(pool_record(pool_obj(spec={"suspend": True, "worker": checks})))
    assert (spec.suspend, spec.safety_check, spec.quality_score) == (True, "shapes", "scorer")
    bare = spec_of(pool_record(pool_obj()))
    assert (bare.suspend, bare.safety_check, bare.quality_score) == (False, "", "")


@pytest.mark.parametrize(
    ("annotations", "want"),
    [
        (None, ""),
        ({"imagefleet.dev/rollout": "promote x 2"}, "promote x 2"),
        ({"imagefleet.dev/placement": "{}"}, ""),
    ],
)
def test_a_pools_annotation_is_a_command(annotations: Obj | None, want: str) -> None:
    assert pool_record(pool_obj(metadata={"annotations": annotations})).command == want


def owned(manager: str, time: str, *names: str, field: str = "f:model", **more: Any) -> Obj:
    items: Obj = {f'k:{{"name":"{name}"}}': {".": {}, field: {}} for name in names}
    fields = {"f:spec": {"f:models": {".": {}, **items}}}
    return {"manager": manager, "time": time, "operation": "Update", "fieldsV1": fields, **more}


@pytest.mark.parametrize(
    ("entries", "want"),
    [
        pytest.param(None, {}, id="nobody is named"),
        pytest.param([owned("kubectl", "T1", "x", "y")], {"x": "kubectl", "y": "kubectl"}, id="all by one"),
        pytest.param(
            [owned("argocd", "T2", "x"), owned("kubectl", "T1", "x", "y")],
            {"x": "argocd", "y": "kubectl"},
            id="the latest of several",
        ),
        pytest.param([owned("kubectl", "T1", "x", field="f:minResident")], {}, id="of another field"),
        pytest.param([owned("kubectl", "T1", "x", subresource="scale")], {}, id="through a subresource"),
        pytest.param([owned("imagefleet-operator", "T1", "x")], {}, id="the operator itself"),
        pytest.param([{"manager": "kubectl", "operation": "Update"}], {}, id="no fields"),
        pytest.param(
            [{"manager": "kubectl", "time": "T1", "fieldsV1": {"f:spec": {"f:models": {}}}}],
            {},
            id="the list alone",
        ),
    ],
)
def test_the_author_of_a_model_is_who_set_it_last(entries: list[Obj] | None, want: dict[str, str]) -> None:
    assert pool_record(pool_obj(metadata={"managedFields": entries})).authors == want


@pytest.mark.parametrize(
    ("entry", "status", "want"),
    [
        ({}, {}, {"m"}),
        ({"shadow": {"model": "s", "percent": 1}}, {}, {"m", "s"}),
        ({"experiments": [{"name": "a", "arms": [{"model": "e", "percent": 1}]}]}, {}, {"m", "e"}),
        ({}, SERVING, {"m", "old"}),
        ({"model": "third"}, SERVING, {"third", "old", "m"}),
        ({}, {"models": [{"name": "x", "stable": "m"}]}, {"m"}),
    ],
    ids=["its own", "a shadow", "an arm", "the stable one", "a canary that is given up", "the same"],
)
def test_the_models_that_a_pool_is_about(entry: Obj, status: Obj, want: set[str]) -> None:
    found = models_of_pool(pool_record(pool_obj(entry=entry, status=status)))
    assert set(found) == want
    assert len(found) == len(want)


def test_a_pool_whose_spec_cannot_be_read_still_has_the_models_that_serve() -> None:
    assert models_of_pool(pool_record(pool_obj(spec={"models": 3}, status=SERVING))) == ("old", "m")


def test_the_stable_model_of_a_rollout_concerns_the_pool_that_no_longer_names_it() -> None:
    store = Store()
    store.put(POOL, pool_obj(status=SERVING))
    old_key = ("model", "ns", "old")
    assert store.put(MODEL, model_obj("old")) == {old_key, POOL_KEY}
    assert store.pools_of_model("ns", "old") == ["p"]
    pool = store.pool("ns", "p")
    assert pool is not None
    assert observe_pool(store, pool, (), {}).models == {"m": None, "old": store.model("ns", "old")}


def test_a_rollouts_end_concerns_the_model_that_no_longer_serves() -> None:
    store = Store()
    store.put(POOL, pool_obj(status=SERVING))
    ended = {"models": [{"name": "x", "stable": "m"}]}
    assert store.put(POOL, pool_obj(2, status=ended)) >= {POOL_KEY, ("model", "ns", "old")}
    assert store.pools_of_model("ns", "old") == []


def test_how_far_a_rollout_is_concerns_the_pool_alone() -> None:
    store = Store()
    store.put(POOL, pool_obj(status=SERVING))
    further = {"models": [{**SERVING["models"][0], "rollout": {"phase": "Paused"}}]}
    assert store.put(POOL, pool_obj(2, status=further)) == {POOL_KEY}


def test_a_command_concerns_the_pool_alone() -> None:
    store = Store()
    store.put(POOL, pool_obj())
    said = {"annotations": {"imagefleet.dev/rollout": "pause x"}}
    assert store.put(POOL, pool_obj(2, metadata=said)) == {POOL_KEY}

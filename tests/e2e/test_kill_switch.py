"""The kill switch, thrown by hand and by the safety check, with the operator up and down; experiments and shadows."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from tests.cluster.cluster import wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.callers import Callers
from tests.e2e.images import client_of, conditions, draw, wait_ready
from tests.e2e.rollout_pools import (
    Json,
    apply,
    command,
    entry_of,
    events_of,
    pool,
    shapes_model,
    traffic_of,
    wait_phase,
    wait_served,
)
from tests.plugins.cluster import Kubectl

POOL = "studio"
RESOURCE = f"inferencepools.imagefleet.dev/{POOL}"


@pytest.fixture(scope="module")
def studio(fleet: Fleet, shared_kubectl: Kubectl) -> Kubectl:
    """One worker that serves shapes-2 under "shapes", its pictures checked for safety."""
    apply(shared_kubectl, *(shapes_model(name) for name in ("shapes-1", "shapes-2", "shapes-unsafe")))
    serve(shared_kubectl, "shapes-2")
    wait_ready(shared_kubectl, POOL)
    return shared_kubectl


def manifest(model: str, *, suspend: bool = False, **entry: Any) -> Json:
    made = pool(POOL, model, worker={"checks": {"safety": "shapes", "quality": "shapes"}})
    made["spec"]["suspend"] = suspend
    made["spec"]["models"][0] |= entry
    return made


def serve(kubectl: Kubectl, model: str, **entry: Any) -> None:
    apply(kubectl, manifest(model, **entry))


def code_of(fleet: Fleet, kubectl: Kubectl, gateway: int = 0) -> str:
    """The error's code that a caller gets; empty for a picture."""
    try:
        draw(fleet.gateways()[gateway], f"{kubectl.namespace}/shapes", prompt="a blue circle on white")
    except openai.APIStatusError as error:
        return str(error.code)
    return ""


def suspended_at(load: Callers) -> float:
    """When the last picture came."""
    return max(one.at for one in load.outcomes if one.status == 200)


def test_suspending_stops_generation_everywhere_within_two_seconds(fleet: Fleet, studio: Kubectl) -> None:
    serve(studio, "shapes-2")
    wait_for(lambda: code_of(fleet, studio) == "", seconds=60)
    with Callers(fleet.gateways(), f"{studio.namespace}/shapes", steps=40) as load:
        load.wait_for_more(5)
        apply(studio, manifest("shapes-2", suspend=True))
        thrown = time.time()
        load.wait_for_more(20)
    assert suspended_at(load) < thrown + 2
    assert {one.code for one in load.outcomes if one.status != 200} == {"model_suspended"}

    def recorded() -> bool:
        records = studio.get(RESOURCE)["status"].get("suspensions", ())
        return bool(records) and records[-1]["requests"] >= 5

    wait_for(recorded)
    record = studio.get(RESOURCE)["status"]["suspensions"][-1]
    assert (record["model"], record["reason"]) == ("shapes-2", "Requested")
    assert "until" not in record
    assert conditions(studio.get(RESOURCE))["Ready"]["reason"] == "Suspended"


def test_an_operator_that_is_down_does_not_reopen_it_and_one_that_is_down_does_not_hinder_it(
    fleet: Fleet, studio: Kubectl
) -> None:
    serve(studio, "shapes-2")
    wait_for(lambda: code_of(fleet, studio) == "", seconds=60)
    scale_operator(fleet, 0)
    try:
        serve(studio, "shapes-2", suspend=True)
        wait_for(lambda: {code_of(fleet, studio, n) for n in (0, 1)} == {"model_suspended"}, seconds=5)
    finally:
        scale_operator(fleet, 1)
    assert code_of(fleet, studio) == "model_suspended"
    serve(studio, "shapes-2")
    wait_for(lambda: code_of(fleet, studio) == "", seconds=60)


def scale_operator(fleet: Fleet, replicas: int) -> None:
    fleet.cluster.kubectl(
        "scale", "deployment", "imagefleet-operator", f"--replicas={replicas}", namespace=fleet.namespace
    )
    wait_for(lambda: len(fleet.pods("operator")) == replicas, seconds=60)


def test_callers_get_the_fallback_while_the_model_is_suspended(fleet: Fleet, studio: Kubectl) -> None:
    made = manifest("shapes-2", fallback={"model": "plain"})
    made["spec"]["models"][0]["suspend"] = True
    made["spec"]["models"].append({"name": "plain", "model": "shapes-1"})
    apply(studio, made)
    client = client_of(fleet.gateways()[0])

    def drawn_by_the_fallback() -> bool:
        raw = client.images.with_raw_response.generate(
            model=f"{studio.namespace}/shapes", prompt="a blue circle on white", size="64x64"
        )
        return bool(raw.headers["x-imagefleet-model"] == "shapes-1")

    wait_for(drawn_by_the_fallback, seconds=60)
    serve(studio, "shapes-2")
    wait_for(lambda: code_of(fleet, studio) == "", seconds=60)


def test_an_unsafe_canary_is_aborted_and_suspended_by_itself(fleet: Fleet, studio: Kubectl) -> None:
    slo = {"safetyPassRate": "0.9", "onUnsafe": "Suspend"}
    serve(studio, "shapes-2", slo=slo)
    wait_for(lambda: code_of(fleet, studio) == "", seconds=60)
    rollout = {"steps": [{"setWeight": 50}, {"pause": {}}], "analysis": {"latency": {"maxRatio": "10"}}}
    with Callers(fleet.gateways(), f"{studio.namespace}/shapes") as load:
        serve(studio, "shapes-unsafe", slo=slo, rollout=rollout)
        entry = wait_phase(studio, POOL, "Aborted", seconds=90)
        aborted = time.time()
        load.wait_for_more(20)
    assert entry["rollout"]["reason"] == "Unsafe"
    assert traffic_of(studio, POOL) == {"shapes-2": 100}
    assert set(load.served_by(since=aborted + 2)) == {"shapes-2"}
    assert {code for _, code, _ in load.failed} <= {"content_policy_violation", "model_suspended"}
    status = studio.get(RESOURCE)
    assert conditions(status)["SafetyHealthy"]["status"] == "False"
    (record,) = [one for one in status["status"]["suspensions"] if one["model"] == "shapes-unsafe"]
    assert record["reason"] == "Unsafe"
    assert "until" not in record
    assert "ModelSuspended" in events_of(studio, POOL)
    command(studio, POOL, "unsuspend shapes")
    wait_for(lambda: "until" in studio.get(RESOURCE)["status"]["suspensions"][-1])
    serve(studio, "shapes-2")
    wait_served(studio, POOL, "shapes-2")


def test_an_experiment_has_its_share_and_a_shadow_draws_for_nobody(fleet: Fleet, studio: Kubectl) -> None:
    serve(studio, "shapes-2", experiments=[{"name": "older", "arms": [{"model": "shapes-1", "percent": 40}]}])
    wait_for(lambda: traffic_of(studio, POOL) == {"shapes-2": 60, "shapes-1": 40}, seconds=60)
    with Callers(fleet.gateways(), f"{studio.namespace}/shapes") as load:
        load.wait_for_more(50)
    assert not load.failed
    shares = load.served_by()
    assert shares["shapes-1"] / shares.total() == pytest.approx(0.4, abs=0.06)

    def counted() -> bool:
        (experiment,) = entry_of(studio, POOL)["experiments"]
        return bool(experiment["arms"][0]["requests"] >= 10)

    wait_for(counted, seconds=90)
    serve(studio, "shapes-2", shadow={"model": "shapes-1", "percent": 50})
    wait_for(
        lambda: entry_of(studio, POOL).get("mirror") == [{"model": "shapes-1", "percent": 50}], seconds=60
    )
    with Callers(fleet.gateways(), f"{studio.namespace}/shapes") as load:
        load.wait_for_more(40)
    assert set(load.served_by()) == {"shapes-2"}
    assert not load.failed
    wait_for(lambda: mirrored(fleet) >= 10)


def mirrored(fleet: Fleet) -> float:
    """Copies that workers drew, over both gateways."""
    name = "imagefleet_gateway_mirrored_total{"
    texts = [client_of(gateway)._client.get(f"{gateway}/metrics").text for gateway in fleet.gateways()]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines if 'outcome="drawn"' in line)

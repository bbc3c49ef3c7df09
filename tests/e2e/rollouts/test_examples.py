"""The examples, applied in the order of their numbers while callers draw: each ends as its comments say."""

from __future__ import annotations

import time

import pytest

from tests.cluster.cluster import PATIENCE
from tests.e2e.callers import Callers
from tests.e2e.images import client_of
from tests.e2e.rollouts.pools import RESOURCE, Pool

# What `kubectl describe` tells of a canary, in its order.
STORY = ["RolloutStarted", "RolloutPaused", "RolloutResumed", "RolloutPromoted"]


def table(pool: Pool) -> dict[str, str]:
    """The pool's row of `kubectl get`, by column."""
    header, row = pool.kubectl("get", "inferencepools.imagefleet.dev").splitlines()
    return dict(zip(header.split(), row.split(), strict=False))


def test_canary(pictures: Pool) -> None:
    pictures.begin("shapes-1")
    pictures.apply_example("canary/2-pool.yaml")
    with pictures.callers() as load:
        load.wait_for_more(5)
        pictures.apply_example("canary/3-next-version.yaml")
        pictures.wait_traffic({"shapes-1": 50, "shapes-2": 50})
        shown = table(pictures)
        pictures.wait_served("shapes-2")
        load.wait_for_more(5)
    assert not load.failed
    assert [shown[column] for column in ("STABLE", "CANARY", "WEIGHT")] == ["shapes-1", "shapes-2", "50%"]
    assert shown["STEP"] in {"3/4", "4/4"}
    ended = pictures.history()[-1]
    assert (ended["from"], ended["to"], ended["verdict"]) == ("shapes-1", "shapes-2", "Promoted")
    assert ended["by"]
    assert {figures["model"] for figures in ended["figures"]} == {"shapes-1", "shapes-2"}
    pictures.wait(lambda: {*STORY, "WeightSet"} <= pictures.events())
    told = pictures.kubectl("describe", RESOURCE).partition("Events:")[2]
    assert sorted(STORY, key=told.rindex) == STORY


def test_canary_aborted(pictures: Pool) -> None:
    pictures.apply_example("canary-aborted/1-models.yaml")
    pictures.apply_example("canary-aborted/2-pool.yaml")
    pictures.wait_served("shapes-2")
    with pictures.callers() as load:
        pictures.apply_example("canary-aborted/3-worse-version.yaml")
        rollout = pictures.wait_phase("Aborted")
        aborted = time.time()
        load.wait_for_more(10, sent_since=aborted + 2)
    assert (rollout["reason"], rollout["abortedModel"]) == ("AnalysisFailed", "shapes-degraded")
    (found,) = rollout["analysis"]["metrics"]
    assert (found["metric"], found["verdict"]) == ("qualityScore", "Failed")
    assert found["canary"] < found["stable"]
    assert set(load.served_by(since=aborted + 2)) == {"shapes-2"}
    assert {model for _, _, model in load.failed} <= {"shapes-degraded"}, "only the canary's own faults"
    assert pictures.condition("RolloutHealthy") == ("False", "RolloutAborted")
    assert pictures.condition("Ready")[0] == "True"
    pictures.wait(lambda: "RolloutAborted" in pictures.events())
    pictures.apply_example("canary-aborted/2-pool.yaml")
    pictures.wait_served("shapes-2")


def test_experiment(pictures: Pool) -> None:
    pictures.begin("shapes-2")
    pictures.apply_example("experiment/2-pool.yaml")
    pictures.wait_traffic({"shapes-2": 50, "shapes-1": 50})
    with pictures.callers() as load:
        load.wait_for_more(40)
    assert not load.failed
    assert load.served_by()["shapes-1"] / len(load.outcomes) == pytest.approx(0.5, abs=0.08)
    users = [f"user-{number}" for number in range(6)]
    seen = {user: {drawn_by(pictures, user, gateway) for gateway in (0, 1)} for user in users}
    assert all(len(models) == 1 for models in seen.values()), "nobody sees both"

    def figures() -> bool:
        (experiment,) = pictures.entry()["experiments"]
        return all(arm.get("requests", 0) > 0 and "qualityScore" in arm for arm in experiment["arms"])

    pictures.wait(figures)


def drawn_by(pool: Pool, user: str, gateway: int) -> str:
    """Whose picture a user gets from one of the gateways."""
    raw = client_of(pool.fleet.gateways()[gateway]).images.with_raw_response.generate(
        model=pool.route, prompt="a blue circle on white", size="64x64", user=user, extra_body={"seed": 1}
    )
    return str(raw.headers["x-imagefleet-model"])


def test_shadow(pictures: Pool) -> None:
    pictures.begin("shapes-2")
    before = mirrored(pictures)
    pictures.apply_example("shadow/2-pool.yaml")
    pictures.wait(lambda: pictures.entry().get("mirror") == [{"model": "shapes-1", "percent": 10}])
    with pictures.callers() as load:
        load.wait_for_more(60)
    assert not load.failed
    assert set(load.served_by()) == {"shapes-2"}
    pictures.wait(lambda: mirrored(pictures) >= before + 3)


def mirrored(pool: Pool) -> float:
    """Copies that workers drew, over both gateways."""
    name = "imagefleet_gateway_mirrored_total{"
    texts = [client_of(gateway)._client.get(f"{gateway}/metrics").text for gateway in pool.fleet.gateways()]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines if 'outcome="drawn"' in line)


def test_kill_switch(pictures: Pool) -> None:
    pictures.begin("shapes-2")
    pictures.apply_example("kill-switch/2-pool.yaml")
    pictures.wait(lambda: len(pictures.status()["models"]) == 2)
    pictures.kubectl("wait", "--for=condition=Ready", RESOURCE, PATIENCE)
    with pictures.callers() as load:
        load.wait_for_more(10)
        pictures.apply_example("kill-switch/3-suspended.yaml")
        thrown = time.time()
        pictures.wait(lambda: pictures.suspensions("shapes-2"))
        load.wait_for_more(10, sent_since=thrown + 2)
        assert last_picture_of(load, "shapes-2") < thrown + 2
        assert {code for _, code, _ in load.failed} <= {"model_suspended"}, "what ran is ended"
        assert set(load.served_by(since=thrown + 2)) == {"shapes-1"}, "the fallback stands in"
        pictures.apply_example("kill-switch/2-pool.yaml")
        lifted = time.time()
        pictures.wait(lambda: "shapes-2" in load.served_by(since=lifted))
    assert {one.code for one in load.outcomes if one.sent > thrown + 2} == {""}
    record = pictures.suspensions("shapes-2")[-1]
    assert (record["reason"], "until" in record) == ("Requested", True)


def last_picture_of(load: Callers, model: str) -> float:
    """When a caller got the last one."""
    return max(one.at for one in load.outcomes if one.status == 200 and one.model == model)

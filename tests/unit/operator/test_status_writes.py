"""When a changed status is written."""

import copy
from typing import Any

import pytest
from imagefleet_operator.plan.status import write_delay
from imagefleet_operator.plan.types import Json

READY = [{"type": "Ready", "status": "False", "reason": "A", "message": "m"}]
OLD: Json = {"observedGeneration": 1, "replicas": 1, "accelerator": {"powerWatts": 100}, "conditions": READY}


@pytest.mark.parametrize(
    ("change", "since", "want"),
    [
        pytest.param({}, 0.0, None, id="nothing changed"),
        pytest.param({"replicas": 2}, None, 0.0, id="the first since the start"),
        pytest.param({"replicas": 2}, 2.0, 3.0, id="a count soon after another"),
        pytest.param({"replicas": 2}, 9.0, 0.0, id="a count later"),
        pytest.param({"accelerator": {"powerWatts": 200}}, 20.0, 40.0, id="a number waits longer"),
        pytest.param(
            {"accelerator": {"powerWatts": 100, "count": 2}}, 2.0, 3.0, id="another accelerator soon"
        ),
        pytest.param({"performance": [{"accelerator": "cpu"}]}, 2.0, 3.0, id="a first measurement soon"),
        pytest.param(
            {"performance": [{"accelerator": "cpu", "sizes": [{"size": "64x64"}]}]},
            2.0,
            3.0,
            id="a new size soon",
        ),
        pytest.param({"copies": {"bytesFetched": 12}}, 1.0, 4.0, id="progress at most every five seconds"),
        pytest.param(
            {"conditions": [*READY, {"type": "Cached", "status": "True", "reason": "C", "message": "m"}]},
            1.0,
            4.0,
            id="copies that come and go, as their counts",
        ),
        pytest.param({"observedGeneration": 2}, 0.5, 0.0, id="a new generation at once"),
        pytest.param({"models": []}, 0.5, 0.0, id="the models at once"),
        pytest.param({"conditions": [{**READY[0], "status": "True"}]}, 0.5, 0.0, id="a condition at once"),
        pytest.param({"conditions": [{**READY[0], "message": "n"}]}, 0.5, 4.5, id="a message soon"),
        pytest.param({"conditions": []}, 0.5, 0.0, id="a condition that goes, at once"),
    ],
)
def test_delay(change: Json, since: float | None, want: float | None) -> None:
    assert write_delay(OLD, OLD | change, since) == want


ROLLING: Json = {
    "models": [
        {
            "name": "shapes",
            "stable": "a",
            "traffic": [{"model": "a", "percent": 95}, {"model": "b", "percent": 5}],
            "rollout": {
                "phase": "Analyzing",
                "step": 2,
                "message": "latency is not certain yet: 0.011",
                "analysis": {
                    "verdict": "Inconclusive",
                    "metrics": [{"metric": "latency", "verdict": "Inconclusive", "canary": 0.011}],
                },
            },
            "experiments": [{"name": "x", "phase": "Running", "arms": [{"model": "c", "requests": 3}]}],
            "budget": {"shortBurnRate": 0.4},
        }
    ],
    "suspensions": [
        {
            "name": "shapes",
            "model": "d",
            "requests": 12,
            "since": "2026-01-01T00:00:00Z",
            "lastServed": last_served,
        }
        for last_served in ("2026-01-01T00:00:05Z", "2026-01-01T00:01:00Z")
    ],
}


@pytest.mark.parametrize(
    ("path", "value", "want"),
    [
        pytest.param("models 0 budget shortBurnRate", 0.5, 59.0, id="a burn rate is a number"),
        pytest.param("models 0 experiments 0 arms 0 requests", 4, 59.0, id="so is a count of an experiment"),
        pytest.param("suspensions 1 requests", 13, 59.0, id="so is what a cache serves of a suspended model"),
        pytest.param("suspensions 0 requests", 13, 4.0, id="what it had served soon"),
        pytest.param("models 0 rollout message", "0.012", 4.0, id="a rollout's message soon"),
        pytest.param(
            "models 0 rollout analysis metrics 0 canary", 0.012, 4.0, id="what an analysis measured soon"
        ),
        pytest.param("models 0 rollout analysis verdict", "Passed", 0.0, id="its verdict at once"),
        pytest.param(
            "models 0 rollout analysis metrics 0 verdict", "Passed", 0.0, id="that of one metric at once"
        ),
        pytest.param("models 0 rollout phase", "Paused", 0.0, id="a phase at once"),
        pytest.param("models 0 rollout reason", "Inconclusive", 0.0, id="a reason at once"),
        pytest.param("models 0 traffic 0 percent", 90, 0.0, id="a share of traffic at once"),
        pytest.param("models 0 experiments 0 phase", "Ended", 0.0, id="the end of an experiment at once"),
        pytest.param("suspensions 0 until", "now", 0.0, id="the end of a suspension at once"),
    ],
)
def test_delay_in_a_rollout(path: str, value: object, want: float) -> None:
    new = copy.deepcopy(ROLLING)
    *way, last = path.split()
    part: Any = new
    for key in way:
        part = part[int(key) if key.isdigit() else key]
    part[last] = value
    assert write_delay(ROLLING, new, 1.0) == want

"""When a changed status is written."""

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

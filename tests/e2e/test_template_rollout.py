"""Workers are replaced because their template changes, with an accelerator to spare and without, while callers draw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.cluster import wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.callers import Callers
from tests.e2e.images import conditions, tiny_model, wait_ready
from tests.plugins.cluster import Kubectl

POOL = "inferencepools.imagefleet.dev/pictures"
GPUS = 2
LABEL = "example.com/gpus"
LOOK_SECONDS = 0.3


@dataclass(frozen=True)
class Workers:
    """The workers of a pool, each with one GPU of a node that has two."""

    kubectl: Kubectl

    def ask_for(self, replicas: int, generation: int, **worker: Any) -> None:
        """So many of this generation; `worker`: further fields of their container."""
        container = {
            "name": "worker",
            "env": [{"name": "GENERATION", "value": str(generation)}],
            **worker,
        }
        template = {"nodeSelector": {LABEL: str(GPUS)}, "containers": [container]}
        spec = {
            "models": [{"name": "tiny", "model": "tiny-1"}],
            "replicas": replicas,
            "worker": {"podTemplate": {"spec": template}, "resources": {"requests": {"cpu": "100m"}}},
        }
        pool = {
            "apiVersion": "imagefleet.dev/v1alpha1",
            "kind": "InferencePool",
            "metadata": {"name": "pictures"},
            "spec": spec,
        }
        self.kubectl.apply(json.dumps(pool))

    def serving(self) -> dict[str, int]:
        """Generations of those that are ready and not on their way out, by name."""
        pods = self.kubectl.get("pods", "-l", "imagefleet.dev/pool=pictures")["items"]
        return {
            pod["metadata"]["name"]: _generation(pod)
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
            and conditions(pod).get("Ready", {}).get("status") == "True"
        }

    def away(self) -> int:
        """How many may be away at a time, as the Deployment has it now."""
        strategy = self.kubectl.get("deployment", "pictures-workers")["spec"]["strategy"]
        return int(strategy["rollingUpdate"]["maxUnavailable"])

    def wait_crashing(self) -> None:
        """Until the pool says that new workers do not start."""

        def crashing() -> bool:
            found = conditions(self.kubectl.get(POOL)).get("WorkersReady", {})
            return bool(found.get("reason") == "WorkersCrashing")

        wait_for(crashing, every=LOOK_SECONDS)

    def wait_replaced(self, replicas: int, generation: int) -> set[int]:
        """Until all are of this generation; how many were allowed to be away at a time meanwhile."""
        seen = set()

        def replaced() -> bool:
            seen.add(self.away())
            return list(self.serving().values()) == [generation] * replicas

        wait_for(replaced, seconds=200, every=LOOK_SECONDS)
        wait_ready(self.kubectl, "pictures")
        return seen


def _generation(pod: dict[str, Any]) -> int:
    (container,) = pod["spec"]["containers"]
    return int(next(one["value"] for one in container["env"] if one["name"] == "GENERATION"))


@pytest.fixture
def workers(fleet: Fleet, kubectl: Kubectl) -> Iterator[Workers]:
    """One worker of generation 1; the node's other GPU is free."""
    fleet.cluster.add_node("gpus", labels={LABEL: str(GPUS)}, gpus=GPUS)
    kubectl.apply(tiny_model("tiny-1"))
    found = Workers(kubectl)
    found.ask_for(1, generation=1)
    wait_ready(kubectl, "pictures", timeout="240s")
    yield found
    fleet.cluster.remove_node("gpus")


@pytest.mark.timeout(600)
def test_workers_are_replaced_while_callers_draw_and_a_bad_template_stops_after_the_first(
    fleet: Fleet, workers: Workers
) -> None:
    model = f"{workers.kubectl.namespace}/tiny"
    with Callers(fleet.gateways(), model, callers=2) as callers:
        callers.wait_for_more(1)
        workers.ask_for(1, generation=2)
        assert workers.wait_replaced(1, generation=2) == {0}, "a new one beside the old one"
        (old,) = workers.serving()
        workers.ask_for(1, generation=3, command=["false"])
        workers.wait_crashing()
        assert set(workers.serving()) == {old}

        workers.ask_for(2, generation=2)
        workers.wait_replaced(2, generation=2)
        assert old in workers.serving(), "nothing was wrong with it"
        workers.ask_for(2, generation=4)
        assert workers.wait_replaced(2, generation=4) == {0, 1}, "no GPU is free: one ends first"
        assert workers.away() == 0, "the next change may find a GPU to spare"
        workers.ask_for(2, generation=5, command=["false"])
        workers.wait_crashing()
        (left,) = workers.serving()
        callers.wait_for_more(5)
        workers.ask_for(2, generation=4)
        workers.wait_replaced(2, generation=4)
        assert left in workers.serving()
    assert not callers.failed

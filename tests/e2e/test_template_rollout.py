"""Workers are replaced because their template changes, with an accelerator to spare and without, while callers draw."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import yaml

from tests.cluster.cluster import wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.images import conditions, draw, tiny_model, wait_ready
from tests.plugins.cluster import Kubectl

POOL = "inferencepools.imagefleet.dev/pictures"
LABEL = "example.com/gpus"
CALLERS = 2


def pool(gpus: int, **worker: Any) -> str:
    """Two workers of one GPU each, on the node with so many; `worker`: further fields of their container."""
    template = {
        "nodeSelector": {LABEL: str(gpus)},
        "containers": [{"name": "worker", **worker}],
    }
    spec = {
        "models": [{"name": "tiny", "model": "tiny-1"}],
        "replicas": 2,
        "worker": {"podTemplate": {"spec": template}, "resources": {"requests": {"cpu": "100m"}}},
    }
    body = {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "pictures"},
    }
    return yaml.safe_dump({**body, "spec": spec})


class Callers:
    """They draw one picture after the other, at all gateways, until the end; `failures` is what went wrong."""

    def __init__(self, gateways: list[str], model: str) -> None:
        self._gateways, self._model = gateways, model
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(CALLERS)
        self.failures: list[str] = []
        self.served = 0

    def __enter__(self) -> Callers:
        for number in range(CALLERS):
            self._threads.submit(self._draw, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._threads.shutdown()

    def _draw(self, number: int) -> None:
        for seed in itertools.count(number, CALLERS):
            if self._stopped.is_set():
                return
            try:
                draw(self._gateways[seed % len(self._gateways)], self._model, seed=seed)
                self.served += 1
            except openai.OpenAIError as error:
                self.failures.append(str(error))


@pytest.fixture(params=[2, 3], ids=["no accelerator to spare", "one to spare"])
def gpus(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[int]:
    """The GPUs of a node for two workers alone."""
    name = f"gpus-{request.param}"
    fleet.cluster.add_node(name, labels={LABEL: str(request.param)}, gpus=request.param)
    yield request.param
    fleet.cluster.remove_node(name)


def workers(kubectl: Kubectl) -> list[dict[str, Any]]:
    return [
        found
        for found in kubectl.get("pods", "-l", "imagefleet.dev/pool=pictures")["items"]
        if "deletionTimestamp" not in found["metadata"]
    ]


def ready(found: dict[str, Any]) -> bool:
    return conditions(found).get("Ready", {}).get("status") == "True"


def generation(found: dict[str, Any]) -> str:
    (container,) = found["spec"]["containers"]
    return next((str(e["value"]) for e in container["env"] if e["name"] == "GENERATION"), "")


def away(kubectl: Kubectl) -> int:
    """How many workers may be away at a time, as the Deployment has it now."""
    strategy = kubectl.get("deployment", "pictures-workers")["spec"]["strategy"]
    return int(strategy["rollingUpdate"]["maxUnavailable"])


@pytest.mark.timeout(900)
def test_workers_are_replaced_while_callers_draw_and_a_bad_template_stops_after_the_first(
    fleet: Fleet, kubectl: Kubectl, gpus: int
) -> None:
    first = [{"name": "GENERATION", "value": "1"}]
    kubectl.apply(tiny_model("tiny-1") + "---\n" + pool(gpus, env=first))
    wait_ready(kubectl, "pictures", timeout="240s")
    model = f"{kubectl.namespace}/tiny"
    seen: set[int] = set()

    with Callers(fleet.gateways(), model) as callers:
        second = [{"name": "GENERATION", "value": "2"}]
        kubectl.apply(pool(gpus, env=second))

        def replaced() -> bool:
            seen.add(away(kubectl))
            found = workers(kubectl)
            return [generation(one) for one in found] == ["2", "2"] and all(map(ready, found))

        wait_for(replaced, seconds=300, every=0.5)
        wait_ready(kubectl, "pictures", timeout="60s")
        before = callers.served
        wait_for(lambda: callers.served > before, seconds=60)
    assert callers.failures == []
    assert seen == ({0, 1} if gpus == 2 else {0})
    assert away(kubectl) == 0, "the next change may find an accelerator to spare"

    kubectl.apply(pool(gpus, env=[{"name": "GENERATION", "value": "3"}], command=["false"]))
    wait_for(lambda: reason(kubectl) == "WorkersCrashing", seconds=120)
    left = [one for one in workers(kubectl) if ready(one)]
    assert [generation(one) for one in left] == ["2"] * (gpus - 1)
    draw(fleet.gateways()[0], model)

    kubectl.apply(pool(gpus, env=second))
    wait_ready(kubectl, "pictures", timeout="120s")
    assert {one["metadata"]["name"] for one in left} <= {one["metadata"]["name"] for one in workers(kubectl)}


def reason(kubectl: Kubectl) -> str:
    return str(conditions(kubectl.get(POOL)).get("WorkersReady", {}).get("reason", ""))

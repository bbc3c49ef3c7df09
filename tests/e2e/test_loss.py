"""Workers are lost under load: one is killed, one is drained. Two gateways, three workers, 200 requests."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai
import pytest

from tests.cluster.fleet import Fleet
from tests.e2e.images import client_of, tiny_model, wait_ready
from tests.plugins.cluster import Kubectl

REQUESTS = 200
AT_A_TIME = 8
LOST_AFTER = 50
POOL = """
apiVersion: imagefleet.dev/v1alpha1
kind: InferencePool
metadata: {name: three}
spec:
  models: [{name: tiny, model: tiny-1}]
  worker: {accelerator: {count: 0}}
  replicas: 3
"""


@dataclass(frozen=True)
class Outcome:
    """One request: its status (0 where no answer came at all), the error's code, and its id."""

    status: int
    code: str
    request_id: str


@pytest.mark.timeout(600)
def test_no_request_is_lost_without_a_typed_error(fleet: Fleet, shared_kubectl: Kubectl) -> None:
    shared_kubectl.apply(tiny_model("tiny-1") + "---" + POOL)
    wait_ready(shared_kubectl, "three", timeout="240s")
    killed, drained = worker_pods(shared_kubectl)[:2]
    addresses = fleet.gateways()
    started = threading.Semaphore(0)

    def request(number: int) -> Outcome:
        started.release()
        return draw(addresses[number % len(addresses)], f"{shared_kubectl.namespace}/tiny", number)

    with ThreadPoolExecutor(AT_A_TIME) as callers:
        outcomes = callers.map(request, range(REQUESTS))
        for _ in range(LOST_AFTER):
            started.acquire()
        fleet.cluster.kill(shared_kubectl.namespace, killed)
        shared_kubectl("delete", "pod", drained, "--wait=false")
        results = list(outcomes)

    assert len(results) == REQUESTS
    failed = [one for one in results if one.status != 200]
    assert all(one.status >= 400 and one.code for one in failed), "each failure says what it is"
    served_by = workers_of(fleet)
    elsewhere = [one for one in failed if served_by.get(one.request_id) != killed]
    assert elsewhere == [], f"only what the killed worker had may fail: {Counter(results)}"
    wait_ready(shared_kubectl, "three", timeout="120s")


def draw(gateway: str, model: str, number: int) -> Outcome:
    try:
        raw = client_of(gateway).images.with_raw_response.generate(
            model=model,
            prompt="a red circle",
            size="64x64",
            extra_body={"seed": number, "num_inference_steps": 6},
            extra_headers={"x-request-id": f"loss-{number}"},
        )
    except openai.APIStatusError as error:
        return Outcome(
            error.status_code, str(error.code or ""), error.response.headers.get("x-request-id", "")
        )
    except openai.APIConnectionError:
        return Outcome(0, "", f"loss-{number}")
    assert json.loads(raw.content)["data"][0]["b64_json"]
    return Outcome(200, "", raw.headers["x-request-id"])


def worker_pods(kubectl: Kubectl) -> list[str]:
    return [
        pod["metadata"]["name"] for pod in kubectl.get("pods", "-l", "imagefleet.dev/pool=three")["items"]
    ]


def workers_of(fleet: Fleet) -> dict[str, str]:
    """The worker that each request was given to last, by request id: from the gateways' logs."""
    found = {}
    for pod in fleet.pods("gateway"):
        for line in fleet.cluster.kubectl(
            "logs", pod["metadata"]["name"], namespace=fleet.namespace
        ).splitlines():
            # Warnings, of a watch that was refused for example, are plain text.
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("worker"):
                found[entry["request_id"]] = entry["worker"].rpartition("/")[2]
    return found

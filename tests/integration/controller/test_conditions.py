"""The operator against a real API server: what it says of pools and models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cluster.audit import AuditLog
from tests.cluster.cluster import PATIENCE, wait_for
from tests.cluster.outside import USER, OutsideOperator
from tests.integration.controller.pools import (
    await_condition,
    condition,
    image_model,
    pool,
)
from tests.plugins.cluster import Kubectl


def test_a_child_that_the_api_server_refuses_stalls_its_pool_alone(
    settled: Kubectl, models: Path, operator: OutsideOperator
) -> None:
    bad = yaml.safe_load(pool("bad"))
    bad["spec"]["worker"]["podTemplate"]["spec"]["restartPolicy"] = "Sometimes"
    settled.apply(yaml.safe_dump(bad))
    stalled = await_condition(settled, "inferencepools.imagefleet.dev", "bad", "Stalled=True/ChildRejected")
    assert "restartPolicy" in stalled["message"]
    settled.apply(pool("good"))
    settled("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/good", PATIENCE)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        pytest.param(pool(model="nowhere"), "ModelsPlaced=False/ModelNotFound", id="no such model"),
        pytest.param(
            pool(accelerator={"resource": "example.com/tpu", "count": 1}),
            "WorkersReady=False/WorkersUnschedulable",
            id="no such accelerator",
        ),
        pytest.param(pool(replicas=0), "Ready=True/ScaledToZero", id="zero replicas"),
    ],
)
def test_a_pool_says_what_is_wrong(
    spec: str, wanted: str, kubectl: Kubectl, operator: OutsideOperator
) -> None:
    kubectl.apply(spec)
    found = await_condition(kubectl, "inferencepools.imagefleet.dev", "thumbs", wanted)
    assert found["message"]


@pytest.mark.parametrize(
    ("folder", "source", "reason"),
    [
        pytest.param("shapes", {"digest": "sha256:" + "0" * 64}, "DigestMismatch", id="another digest"),
        pytest.param("nowhere", {}, "SourceNotFound", id="no folder"),
    ],
)
def test_bad_files_never_make_a_model_ready(
    folder: str,
    source: dict[str, str],
    reason: str,
    kubectl: Kubectl,
    models: Path,
    operator: OutsideOperator,
) -> None:
    kubectl.apply(image_model(models, "bad", folder, {}, **source))
    await_condition(kubectl, "imagemodels.imagefleet.dev", "bad", f"Stalled=True/{reason}")
    assert condition(kubectl, "imagemodels.imagefleet.dev", "bad", f"Ready=False/{reason}") is not None
    wait_for(
        lambda: reason in kubectl("get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}").split()
    )


def test_a_model_is_served_where_an_accelerator_can_do_what_it_asks_and_says_where_none_can(
    kubectl: Kubectl, models: Path, operator: OutsideOperator
) -> None:
    kubectl.apply(image_model(models, pipeline={"quantization": "float8-dynamic"}))
    kubectl.apply(pool())
    model, pools = "imagemodels.imagefleet.dev", "inferencepools.imagefleet.dev"
    refused = await_condition(kubectl, pools, "thumbs", "ModelsPlaced=False/OptionUnsupported")
    assert refused["message"] == "shapes on cpu: float8-dynamic needs an accelerator with float8."
    stalled = await_condition(kubectl, model, "shapes", "Stalled=True/OptionUnsupported")
    assert stalled["message"] == "cpu: float8-dynamic needs an accelerator with float8."
    kubectl.apply(pool("able", fake={"FAKE_ACCELERATOR": "FAKE-1"}))
    kubectl("wait", "--for=condition=Ready", f"{pools}/able", PATIENCE)
    ready = await_condition(kubectl, model, "shapes", "Ready=True/Ready")
    assert "Not on every accelerator: cpu: float8-dynamic needs" in ready["message"]
    assert condition(kubectl, pools, "thumbs", "ModelsPlaced=False/OptionUnsupported") is not None


def test_how_far_a_fetch_is_is_told_and_costs_nothing_while_it_stands_still(
    kubectl: Kubectl, models: Path, operator: OutsideOperator, audit: AuditLog
) -> None:
    kubectl.apply(image_model(models))
    kubectl.apply(pool(replicas=2, fake={"FAKE_FETCHED": "42"}))
    model = "imagemodels.imagefleet.dev"

    def both() -> bool:
        found = condition(kubectl, model, "shapes", "Cached=False/Fetching")
        return found is not None and found["message"] == "2 of 2 workers fetch the files: 42 % of 2Ki."

    wait_for(both)
    copies = kubectl.get(model, "shapes")["status"]["copies"]
    assert copies == {
        "available": 0, "total": 2, "failed": 0, "fetching": 2, "bytesFetched": 840, "bytesTotal": 2000,
    }  # fmt: skip
    mark = audit.mark()
    wait_for(lambda: len(list(audit.events(since=mark, verb="update", resource="leases"))) >= 10)
    written = audit.events(since=mark, user=USER, writes=True, namespace=kubectl.namespace)
    assert [e.resource for e in written if e.resource == "imagemodels"] == []


def test_a_model_that_comes_after_its_pool_is_placed_at_once(settled: Kubectl, models: Path) -> None:
    entries = [{"name": name, "model": name} for name in ("shapes", "later")]
    patch = json.dumps({"spec": {"models": entries}})
    settled("patch", "inferencepools.imagefleet.dev", "thumbs", "--type=merge", "-p", patch)
    await_condition(settled, "inferencepools.imagefleet.dev", "thumbs", "ModelsPlaced=False/ModelNotFound")
    settled.apply(image_model(models, "later"))
    settled("wait", "--for=condition=Ready", "imagemodels.imagefleet.dev/later", PATIENCE)
    settled("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", PATIENCE)

"""Pools of workers that only say what they are told to hold, models of a few bytes, and what is asked of both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import REPOSITORY, wait_for
from tests.cluster.outside import OutsideOperator
from tests.plugins.cluster import Kubectl

CHILDREN = ("deployment", "service", "serviceaccount", "poddisruptionbudget")
FAKE_WORKER = [sys.executable, str(REPOSITORY / "tests" / "integration" / "fake_worker.py")]
STARTER = Callable[[str], OutsideOperator]


def pool(
    name: str = "thumbs",
    model: str = "shapes",
    replicas: int = 1,
    fake: Mapping[str, str] = {},
    **worker: Any,
) -> str:
    """A pool of fake workers; `fake`: their environment."""
    env = [{"name": variable, "value": value} for variable, value in fake.items()]
    container = {"name": "worker", "command": FAKE_WORKER, "args": [], "env": env}
    template = {"spec": {"containers": [container]}}
    spec = {
        "models": [{"name": "shapes", "model": model}],
        "replicas": replicas,
        "worker": {"podTemplate": template, "accelerator": {"count": 0}, **worker},
    }
    return manifest("InferencePool", name, spec)


def image_model(
    models: Path,
    name: str = "shapes",
    folder: str = "shapes",
    pipeline: Mapping[str, str] = {},
    **source: Any,
) -> str:
    """A model whose files are in the folder."""
    source = {"uri": f"file://{models / folder}", **source}
    return manifest("ImageModel", name, {"source": source, "pipeline": dict(pipeline)})


def manifest(kind: str, name: str, spec: dict[str, Any]) -> str:
    document = {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    return yaml.safe_dump(document)


def condition(kubectl: Kubectl, kind: str, name: str, wanted: str) -> dict[str, Any] | None:
    """The condition ``Type=Status/Reason`` where it is so now, else None."""
    status = kubectl.get(kind, name).get("status", {})
    for found in status.get("conditions", ()):
        if f"{found['type']}={found['status']}/{found['reason']}" == wanted:
            return dict(found)
    return None


def await_condition(kubectl: Kubectl, kind: str, name: str, wanted: str) -> dict[str, Any]:
    wait_for(lambda: condition(kubectl, kind, name, wanted) is not None)
    found = condition(kubectl, kind, name, wanted)
    assert found is not None
    return found


def exists(kubectl: Kubectl, kind: str, name: str) -> bool:
    return bool(kubectl("get", kind, name, "--ignore-not-found", "-o", "name").strip())

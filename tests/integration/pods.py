"""Pods as the tests of the local cluster make and watch them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import PATIENCE
from tests.plugins.cluster import Kubectl

Object = dict[str, Any]


def container(script: str, **more: Any) -> Object:
    return {"name": "main", "image": "any", "command": ["sh", "-c", textwrap.dedent(script)], **more}


def pod(name: str, *containers: Object, **spec: Any) -> Object:
    body = {
        "containers": list(containers),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": body,
    }


def apply(kubectl: Kubectl, *documents: Object) -> None:
    kubectl.apply(yaml.safe_dump_all(documents))


def main_status(kubectl: Kubectl, name: str) -> Object:
    statuses = kubectl.get("pod", name)["status"].get("containerStatuses") or [{}]
    found: Object = statuses[0]
    return found


def conditions(kubectl: Kubectl, name: str) -> dict[str, str]:
    return {c["type"]: c["status"] for c in kubectl.get("pod", name)["status"].get("conditions", [])}


def finish(kubectl: Kubectl, name: str, phase: str = "Succeeded") -> str:
    """Wait for the pod to end, and return what it wrote."""
    kubectl("wait", f"--for=jsonpath={{.status.phase}}={phase}", f"pod/{name}", PATIENCE)
    return kubectl("logs", name)


def run(kubectl: Kubectl, script: str, **spec: Any) -> str:
    apply(kubectl, pod("once", container(script), **spec))
    return finish(kubectl, "once")


def commands_with(text: str) -> list[str]:
    """Command lines of running processes that hold the text; arguments are separated by NUL."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return [line for line in found if text in line]

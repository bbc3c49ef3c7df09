"""kwok: nodes and pods that need no machine. Built like the servers of tests, and run beside a local cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import Cluster
from tests.servers.build import Server, ensure

KWOK = Server("kwok", "sigs.k8s.io/kwok/cmd/kwok", "v0.8.0")
LABEL = "bench.imagefleet.dev/kwok"
ADDRESSES = "127.64.0.1/10"
"""Of pods: the loopback device answers for all of them, beside those of process nodes (127.0.0.0/16)."""
LEASE_SECONDS = 120
"""A quarter of it passes between two renewals of a node's Lease: within the 50 s after which a node counts as lost."""
VERIFIED = {
    "ok": True,
    "digest": f"sha256:{'0' * 64}",
    "bytes": 5 * 2**30,
    "files": 19,
    "className": "StableDiffusionPipeline",
    "adapters": [],
}
"""What each verification Job says."""

_EXISTS = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
_STAYS = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
_OF_JOB = {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]}
_NOT_OF_JOB = {**_OF_JOB, "operator": "NotIn"}
_READY = """
{{ $now := Now }}
conditions:
{{ range $type := list "Initialized" "Ready" "ContainersReady" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
phase: Running
startTime: {{ $now | Quote }}
"""
_DONE = """
{{ $now := Now }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
      message: '%s'
{{ end }}
phase: Succeeded
startTime: {{ $now | Quote }}
"""


def stages() -> str:
    """What kwok makes of pods: workers run at once, verifications find what they look for, what is deleted goes."""
    made = [
        # kwok looks after the pods of those nodes alone for which it has something to do.
        _stage("node-known", "Node", [_absent(".status.phase")], {"statusTemplate": "phase: Running"}),
        _stage(
            "pod-ready", "Pod", [_STAYS, _NOT_OF_JOB, _absent(".status.podIP")], {"statusTemplate": _READY}
        ),
        _stage(
            "pod-verified",
            "Pod",
            [_STAYS, _OF_JOB, _absent(".status.startTime")],
            {"statusTemplate": _DONE % json.dumps(VERIFIED)},
        ),
        _stage("pod-delete", "Pod", [_EXISTS], {"finalizers": {"empty": True}, "delete": True}),
    ]
    return yaml.safe_dump_all(made)


def options() -> str:
    """kwok's own: with its four renewals of Leases at a time a slow API server makes 1,000 nodes late, hence lost."""
    found = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {"nodeLeaseParallelism": 32, "nodePlayStageParallelism": 4, "podPlayStageParallelism": 4},
    }
    return yaml.safe_dump(found)


def _absent(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "DoesNotExist"}


def _stage(
    name: str, kind: str, expressions: list[dict[str, Any]], following: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            "next": following,
        },
    }


def add_nodes(cluster: Cluster, count: int, gpus: int) -> None:
    """Register so many nodes, for kwok to look after."""
    nodes = {"apiVersion": "v1", "kind": "List", "items": [_node(number, gpus) for number in range(count)]}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(nodes))


def _node(number: int, gpus: int) -> dict[str, Any]:
    """A Node as its kubelet would register it."""
    room = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    conditions = [
        {"type": kind, "status": status, "reason": "Bench", "message": "It is said to be so."}
        for kind, status in (("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"))
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"kwok-{number}", "labels": {LABEL: "true"}},
        "status": {"capacity": room, "allocatable": room, "conditions": conditions},
    }


@contextmanager
def running(cluster: Cluster, folder: Path) -> Iterator[None]:
    """kwok while it looks after all nodes with the label, and their pods."""
    config = folder / "kwok.yaml"
    config.write_text("---\n".join((options(), stages())))
    command = [
        str(ensure(KWOK)),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config={config}",
        f"--manage-nodes-with-label-selector={LABEL}",
        f"--cidr={ADDRESSES}",
        f"--node-lease-duration-seconds={LEASE_SECONDS}",
        "--node-ip=127.0.0.1",
    ]
    with (folder / "kwok.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        time.sleep(2)  # what it does not understand of its configuration it says at once
        if process.poll() is not None:
            raise RuntimeError(f"kwok has ended: {(folder / 'kwok.log').read_text()[-1000:]}")
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    ensure(KWOK)

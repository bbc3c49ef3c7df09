"""The node itself: its Node objects, their heartbeats, and the pods that are bound to them."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from .addresses import Addresses
from .api import MERGE, Api, ApiError, Object
from .clock import micro_timestamp, timestamp
from .config import NodeConfig, NodeSpec
from .env import PodFacts
from .launch import PodContext
from .pod import PodRunner

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
HOST_IP = "127.0.0.1"
LEASE_SECONDS = 40
HEARTBEAT_SECONDS = 10.0
STATUS_SECONDS = 240.0
VERSION = "v1.36.3-imagefleet-process-node"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
ENDED = ("Succeeded", "Failed")


@dataclass
class Agent:
    """One Node object and its pods, by uid."""

    api: Api
    config: NodeConfig
    spec: NodeSpec
    addresses: Addresses
    probe_session: aiohttp.ClientSession
    kubelet_port: int
    runners: dict[str, PodRunner] = field(default_factory=dict)
    _removals: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        await self._register()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeats())
            group.create_task(self._status_updates())
            group.create_task(self._follow_pods())

    def kill_all(self) -> None:
        for runner in self.runners.values():
            runner.kill()

    async def _register(self) -> None:
        """Keeps trying: the API server may come up after its node."""
        while True:
            try:
                await self._write_node()
                await self._write_lease()
                return
            except (ApiError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.2)

    async def _write_node(self) -> None:
        name = self.spec.name
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": ARCHITECTURE,
            **self.spec.labels,
        }
        metadata = {"name": name, "labels": labels}
        node: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata,
            "spec": {"taints": self.spec.taints},
        }
        try:
            await self.api.create("/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:
                raise
            # A node that comes back: the controller's own taints are for the controller to remove.
            await self.api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}}, MERGE)
        await self.api.patch(f"/api/v1/nodes/{name}/status", {"status": self._status()})

    def _status(self) -> Object:
        now = timestamp()
        capacity = self.spec.capacity()
        healthy = [
            ("MemoryPressure", "False"),
            ("DiskPressure", "False"),
            ("PIDPressure", "False"),
            ("Ready", "True"),
        ]
        return {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": HOST_IP},
                {"type": "Hostname", "address": self.spec.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port}},
            "nodeInfo": _node_info(self.spec.name),
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": "ProcessNode",
                    "message": "",
                    "lastHeartbeatTime": now,
                }
                for kind, status in healthy
            ],
        }

    async def _write_lease(self) -> None:
        renewed = {"holderIdentity": self.spec.name, "leaseDurationSeconds": LEASE_SECONDS}
        spec = {**renewed, "renewTime": micro_timestamp()}
        try:
            await self.api.patch(f"{LEASES}/{self.spec.name}", {"spec": spec}, MERGE)
        except ApiError as error:
            if error.status != 404:
                raise
            metadata = {"name": self.spec.name, "namespace": "kube-node-lease"}
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": spec,
            }
            await self.api.create(LEASES, body)

    async def _heartbeats(self) -> None:
        """The lease is what keeps the node Ready."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._write_lease()
            except (ApiError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(1)

    async def _status_updates(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            try:
                await self._write_node()
            except (ApiError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(1)

    async def _follow_pods(self) -> None:
        selector = f"spec.nodeName={self.spec.name}"
        async for kind, pods in self.api.follow("/api/v1/pods", fieldSelector=selector):
            if kind == "SYNC":
                self._drop_all_but({pod["metadata"]["uid"] for pod in pods})
            for pod in pods:
                if kind == "DELETED":
                    self._drop(pod["metadata"]["uid"])
                else:
                    self._observe(pod)

    def _observe(self, pod: Object) -> None:
        metadata = pod["metadata"]
        runner = self.runners.get(metadata["uid"])
        deleting = "deletionTimestamp" in metadata
        if runner is not None:
            runner.update(pod)
        elif deleting or (pod.get("status") or {}).get("phase") in ENDED:
            # It ended before this process began, or never started: there is nothing to stop.
            if deleting:
                self._background(self._forget(metadata))
            return
        else:
            runner = self.runners[metadata["uid"]] = self._start(pod)
        if deleting:
            runner.terminate(float(metadata.get("deletionGracePeriodSeconds", 0)))

    def _start(self, pod: Object) -> PodRunner:
        metadata = pod["metadata"]
        folder = self.config.pod_folders / metadata["uid"]
        facts = PodFacts(pod, self.addresses.take(), HOST_IP, self.spec.capacity())
        return PodRunner(PodContext(self.api, self.config, facts, folder, self.probe_session, lambda: None))

    def _drop_all_but(self, uids: set[str]) -> None:
        for uid in set(self.runners) - uids:
            self._drop(uid)

    def _drop(self, uid: str) -> None:
        runner = self.runners.pop(uid, None)
        if runner is not None:
            self._background(self._remove(runner))

    async def _remove(self, runner: PodRunner) -> None:
        await runner.removed()
        self.addresses.give_back(runner.context.facts.ip)

    async def _forget(self, metadata: Object) -> None:
        body: Object = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
            await self.api.delete(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", body)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)


def _node_info(name: str) -> Object:
    return {
        "machineID": name,
        "systemUUID": name,
        "bootID": name,
        "kernelVersion": platform.release(),
        "osImage": "the host's",
        "containerRuntimeVersion": "process://1",
        "kubeletVersion": VERSION,
        "kubeProxyVersion": VERSION,
        "operatingSystem": "linux",
        "architecture": ARCHITECTURE,
    }

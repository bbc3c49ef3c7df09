"""From a container's spec to what the launcher is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from . import env as environments
from . import host, security
from .api import Api, ApiError, Object
from .clock import timestamp
from .config import NodeConfig
from .env import PodFacts
from .errors import ConfigError
from .process import Bind, LaunchSpec
from .volumes import Volume

DEFAULT_MESSAGE_PATH = "/dev/termination-log"


@dataclass
class PodContext:
    """What all containers of a pod share. `record` writes the pod's state file."""

    api: Api
    config: NodeConfig
    facts: PodFacts
    folder: Path
    probe_session: aiohttp.ClientSession
    record: Callable[[], None]
    volumes: dict[str, Volume] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def pod(self) -> Object:
        return self.facts.pod

    @property
    def grace(self) -> float:
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def container_folder(self, name: str) -> Path:
        path = self.folder / "containers" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str, restarts: int) -> Path:
        metadata = self.pod["metadata"]
        return log_path(
            self.config.pod_logs, metadata["namespace"], metadata["name"], metadata["uid"], name, restarts
        )

    def detached(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def event(self, kind: str, reason: str, message: str, container: str = "") -> None:
        """Events are for people: one that cannot be written is dropped."""
        metadata, now = self.pod["metadata"], timestamp()
        involved = {"apiVersion": "v1", "kind": "Pod"} | {
            k: metadata[k] for k in ("name", "namespace", "uid")
        }
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        node = self.pod["spec"].get("nodeName", "")
        body: Object = {
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message[:1000],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet",
            "reportingInstance": node,
        }
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
            await self.api.create(f"/api/v1/namespaces/{metadata['namespace']}/events", body)


def log_path(root: Path, namespace: str, pod: str, uid: str, container: str, restarts: int) -> Path:
    return root / f"{namespace}_{pod}_{uid}" / container / f"{restarts}.log"


def message_file(pod: PodContext, container: str) -> Path:
    return pod.container_folder(container) / "termination-log"


async def prepare(pod: PodContext, container: Object, restarts: int) -> LaunchSpec:
    name = container["name"]
    who = security.identity(pod.pod, container)
    base = host.base_environment(pod.config, pod.facts, who.uid)
    values = await environments.environment(pod.api, pod.facts, container, base)
    log = pod.log(name, restarts)
    log.parent.mkdir(parents=True, exist_ok=True)
    rootfs = host.image(pod.config)
    volumes = _volume_binds(pod, container, values)
    return LaunchSpec(
        args=environments.command_line(container, values),
        env=[f"{key}={value}" for key, value in values.items()],
        workingDir=container.get("workingDir", ""),
        log=str(log),
        root=str(pod.container_folder(name) / "root"),
        uid=who.uid,
        gid=who.gid,
        groups=who.groups,
        parent=os.getpid(),
        capabilities=who.capabilities,
        noNewPrivileges=who.no_new_privileges,
        readOnlyRoot=who.read_only_root,
        hidden=rootfs.hidden,
        binds=[
            *rootfs.binds,
            *_message_bind(pod, container),
            *volumes,
            *_hidden_by(volumes, rootfs.binds),
        ],
    )


def _hidden_by(volumes: list[Bind], parts: list[Bind]) -> list[Bind]:
    """The image's parts that lie below a volume, to be bound once more on top of it: no image has anything
    below /tmp, but a checkout may lie there."""
    return [p for p in parts if any(Path(volume.target) in Path(p.target).parents for volume in volumes)]


def _message_bind(pod: PodContext, container: Object) -> list[Bind]:
    file = message_file(pod, container["name"])
    file.write_bytes(b"")
    file.chmod(0o666)  # whatever user the container runs as
    return [Bind(str(file), container.get("terminationMessagePath") or DEFAULT_MESSAGE_PATH)]


def _volume_binds(pod: PodContext, container: Object, env: dict[str, str]) -> list[Bind]:
    mounts = container.get("volumeMounts") or []
    # A mount below another one comes after it, whatever the order in the spec.
    return [
        _volume_bind(pod, mount, env) for mount in sorted(mounts, key=lambda m: m["mountPath"].rstrip("/"))
    ]


def _volume_bind(pod: PodContext, mount: Object, env: dict[str, str]) -> Bind:
    volume = pod.volumes[mount["name"]]
    below = mount.get("subPath") or environments.expand(mount.get("subPathExpr") or "", env)
    source = volume.path / below
    if ".." in Path(below).parts or Path(below).is_absolute():
        raise ConfigError(f"subPath {below!r} leaves its volume")
    if below and not source.exists():
        if volume.read_only:
            raise ConfigError(f"subPath {below!r} is not in volume {mount['name']!r}")
        source.mkdir(parents=True)
    return Bind(str(source), mount["mountPath"], volume.read_only or bool(mount.get("readOnly")))

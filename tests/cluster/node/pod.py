"""One pod on this node, from its binding to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import aiohttp

from . import status
from .api import ApiError, Object
from .clock import timestamp
from .container import Container
from .errors import ConfigError, MountError
from .launch import PodContext
from .volumes import Volumes

MOUNT_RETRY_SECONDS = 1.0
# Changes this close together go to the API server as one.
COALESCE_SECONDS = 0.02
# What a sidecar gets after the containers that it serves have ended.
SIDECAR_GRACE_SECONDS = 2.0


class PodRunner:
    def __init__(self, context: PodContext) -> None:
        self._context = context
        context.record = self._record
        self._changed = asyncio.Event()
        self._initialized = False
        self._terminating = False
        self._mounted = False
        self._gone = False
        self._sent: Object = {}
        self._start_time = (context.pod.get("status") or {}).get("startTime") or timestamp()
        self._volumes = Volumes(context.api, context.facts, context.folder / "volumes")
        spec = context.pod["spec"]
        policy = spec.get("restartPolicy", "Always")
        before_main = "Never" if policy == "Never" else "OnFailure"
        self._init = [
            self._container(c, c.get("restartPolicy") or before_main) for c in spec.get("initContainers", [])
        ]
        self._main = [self._container(c, policy) for c in spec["containers"]]
        self._sidecars = frozenset(
            c.spec["name"] for c in self._init if c.spec.get("restartPolicy") == "Always"
        )
        self._resume()
        self._record()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._write_statuses())]
        self._side_tasks: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None

    @property
    def context(self) -> PodContext:
        return self._context

    def update(self, pod: Object) -> None:
        """A newer version of the object: labels and readiness gates may have changed."""
        self._context.facts = replace(self._context.facts, pod=pod)
        self._volumes.facts = self._context.facts
        self._changed.set()

    def terminate(self, grace: float) -> None:
        """Once; a later call is for a shorter grace period, and there are few of those."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._terminate(grace))
        elif grace == 0:
            self.kill()

    def kill(self) -> None:
        for container in [*self._main, *self._init]:
            container.kill()

    async def removed(self) -> None:
        """The object is gone: nothing to be graceful about."""
        self._gone = True
        self.kill()
        await self._stop_all(0)
        await self._clean_up()

    def containers(self) -> Sequence[Container]:
        return [*self._init, *self._main]

    def _container(self, spec: Object, restart: str) -> Container:
        return Container(self._context, spec, restart, self._changed.set)

    def _resume(self) -> None:
        known = self._context.pod.get("status") or {}
        reported = [*(known.get("initContainerStatuses") or []), *(known.get("containerStatuses") or [])]
        by_name = {entry["name"]: entry for entry in reported}
        for container in self.containers():
            container.resume(by_name.get(container.spec["name"], {}))

    async def _run(self) -> None:
        await self._mount()
        self._mounted = True
        self._changed.set()
        for container in self._init:
            if not await self._run_init(container):
                return
        self._initialized = True
        self._changed.set()
        async with asyncio.TaskGroup() as group:
            for container in self._main:
                group.create_task(container.run())
        await self._stop_sidecars(self._context.grace)
        self._changed.set()

    async def _run_init(self, container: Container) -> bool:
        """Whether the next container may start."""
        if container.spec["name"] not in self._sidecars:
            await container.run()
            return container.state.exit_code == 0 and not self._terminating
        self._side_tasks.append(asyncio.create_task(container.run()))
        await container.has_started()
        return not self._terminating

    async def _mount(self) -> None:
        told = ""
        while True:
            try:
                self._context.volumes = await self._volumes.make()
                return
            except (MountError, ConfigError, ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
                self._volumes.close()
                if str(error) != told:
                    told = str(error)
                    await self._context.event("Warning", "FailedMount", told)
                await asyncio.sleep(MOUNT_RETRY_SECONDS)

    async def _terminate(self, grace: float) -> None:
        self._terminating = True
        self._changed.set()
        running = [c.spec["name"] for c in self.containers() if c.state.running]
        for name in running:
            self._context.detached(
                self._context.event("Normal", "Killing", f"Stopping container {name}", name)
            )
        await self._stop_all(grace)
        await self._clean_up()
        await self._finalize()

    async def _stop_all(self, grace: float) -> None:
        ending = [c for c in self.containers() if c.spec["name"] not in self._sidecars]
        await asyncio.gather(*(container.stop(grace) for container in ending))
        await self._stop_sidecars(min(grace, SIDECAR_GRACE_SECONDS))
        if not self._mounted:
            self._tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._tasks[0], *self._side_tasks, return_exceptions=True)

    async def _stop_sidecars(self, grace: float) -> None:
        """In reverse order of their start, after the containers that they serve."""
        for container in reversed(self._init):
            if container.spec["name"] in self._sidecars:
                await container.stop(grace)

    async def _clean_up(self) -> None:
        self._volumes.close()
        self._tasks[1].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks[1]
        await asyncio.to_thread(shutil.rmtree, self._context.folder, ignore_errors=True)

    async def _finalize(self) -> None:
        """The last status, then the object itself."""
        metadata = self._context.pod["metadata"]
        while not self._gone:
            try:
                await self._write_status()
                body: Object = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
                await self._context.api.delete(self._path(), body)
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(1)

    def _path(self) -> str:
        metadata = self._context.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def snapshot(self) -> status.Snapshot:
        return status.Snapshot(
            pod=self._context.pod,
            init=[c.state for c in self._init],
            main=[c.state for c in self._main],
            sidecars=self._sidecars,
            initialized=self._initialized,
            terminating=self._terminating,
            mounted=self._mounted,
            ip=self._context.facts.ip,
            host_ip=self._context.facts.host_ip,
            start_time=self._start_time,
        )

    async def _write_statuses(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._write_status()
            except ApiError as error:
                if error.status == 404:
                    return
                await self._retry_soon()
            except (aiohttp.ClientError, TimeoutError):
                await self._retry_soon()
            await self._changed.wait()
            await asyncio.sleep(COALESCE_SECONDS)

    async def _retry_soon(self) -> None:
        await asyncio.sleep(0.5)
        self._changed.set()

    async def _write_status(self) -> None:
        built = status.build(self.snapshot(), timestamp())
        if _same(built, self._sent):
            return
        uid = self._context.pod["metadata"]["uid"]
        pod = await self._context.api.patch(
            f"{self._path()}/status", {"metadata": {"uid": uid}, "status": built}
        )
        self._sent = built
        # Before the watch brings it: the next status keeps the transition times of this one.
        self._context.facts = replace(self._context.facts, pod=pod)

    def _record(self) -> None:
        """The pod's processes, for tests that kill them and for the end of the cluster."""
        metadata = self._context.pod["metadata"]
        running: dict[str, Any] = {
            c.spec["name"]: {"pid": c.process.pid, "started": c.process.started, "restarts": c.state.restarts}
            for c in self.containers()
            if c.process is not None
        }
        document = {k: metadata[k] for k in ("namespace", "name", "uid")}
        self._context.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._context.folder / ".state.json"
        temporary.write_text(json.dumps(document | {"ip": self._context.facts.ip, "containers": running}))
        temporary.rename(self._context.folder / "state.json")


def _same(built: Object, sent: Object) -> bool:
    """Equal but for the moment of a transition that has already been told."""

    def timeless(document: Object) -> Object:
        kept = [
            {k: v for k, v in c.items() if k != "lastTransitionTime"} for c in document.get("conditions", [])
        ]
        return {**document, "conditions": kept}

    return timeless(built) == timeless(sent)

"""One container of a pod through all its runs: start, probes, restarts, stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from . import launch, probes
from .api import ApiError, Object
from .clock import timestamp
from .errors import ConfigError
from .launch import PodContext
from .process import Exit, LaunchSpec, Process, run_inside
from .status import ContainerState

MESSAGE_LIMIT = 4096
# A kubelet gives a container at least this long after its preStop hook used up the grace period.
LEAST_GRACE_SECONDS = 2.0


@dataclass
class Backoff:
    """Delays between restarts: none for the first, then doubling. A run that lasted forgets the past."""

    initial: float
    limit: float
    _next: float = 0.0

    def after(self, ran_seconds: float) -> float:
        if ran_seconds > 2 * self.limit:
            self._next = 0.0
        delay = self._next
        self._next = min(self.limit, max(self.initial, 2 * self._next))
        return delay


class Container:
    """`restart` is Always, OnFailure or Never; `changed` is called whenever `state` has changed."""

    def __init__(self, pod: PodContext, spec: Object, restart: str, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.state = ContainerState(spec["name"], spec.get("image", ""))
        self.process: Process | None = None
        self._pod = pod
        self._restart = restart
        self._changed = changed
        self._stopping = asyncio.Event()
        self._started = asyncio.Event()
        self._backoff = Backoff(pod.config.backoff_seconds, pod.config.backoff_limit_seconds)
        self._tasks: list[asyncio.Task[None]] = []
        self._launched: LaunchSpec | None = None

    def resume(self, previous: Object) -> None:
        """Take over the count from a status that an earlier node process wrote: the run it saw is lost."""
        self.state.restarts = previous.get("restartCount", 0)
        if "running" in (previous.get("state") or {}):
            self.state.restarts += 1
            self.state.last = {
                "terminated": {
                    "exitCode": 137,
                    "reason": "ContainerStatusUnknown",
                    "message": "The container could not be located when the node came back",
                    "startedAt": previous["state"]["running"].get("startedAt"),
                    "finishedAt": timestamp(),
                }
            }

    async def run(self) -> None:
        """Until the container is not to run again."""
        while not self._stopping.is_set():
            began = time.monotonic()
            ended = await self._run_once()
            if ended is None:
                await self._pause(2.0)
                continue
            if self._stopping.is_set() or not self._again(ended):
                return
            await self._back_off(self._backoff.after(time.monotonic() - began))
            self.state.restarts += 1

    async def has_started(self) -> None:
        """Until its startup probe has passed (or it runs, without one), or it is to stop."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._started, self._stopping)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in waiting:
            future.cancel()

    async def stop(self, grace: float) -> None:
        """preStop, SIGTERM, then SIGKILL when the grace period is over."""
        self._stopping.set()
        if self.process is not None and self.state.running:
            await self._end(self.process, grace)

    def kill(self) -> None:
        self._stopping.set()
        if self.process is not None:
            self.process.send(signal.SIGKILL)

    def _again(self, ended: Exit) -> bool:
        return self._restart == "Always" or (self._restart == "OnFailure" and ended.code != 0)

    async def _run_once(self) -> Exit | None:
        """None when the spec cannot be run now; the reason stands in `state`."""
        try:
            spec = await launch.prepare(self._pod, self.spec, self.state.restarts)
        except (ConfigError, ApiError, aiohttp.ClientError, OSError) as error:
            await self._misconfigured(str(error))
            return None
        self._launched = spec
        process = Process(self._pod.config.launcher, spec, self._pod.container_folder(self.spec["name"]))
        failed = await process.start()
        started_at = timestamp()
        if failed is not None:
            self._ended(failed, started_at)
            await self._pod.event("Warning", "Failed", f"Error: {failed.error}", self.spec["name"])
            return failed
        self.process = process
        self._running(started_at)
        if self._stopping.is_set():  # asked to stop while it was starting
            process.send(signal.SIGKILL)
        ended = await process.wait()
        self._cancel_tasks()
        self._ended(ended, started_at)
        return ended

    async def _misconfigured(self, message: str) -> None:
        known = self.state.state.get("waiting", {}).get("message")
        self._wait_for("CreateContainerConfigError", message)
        if message != known:
            await self._pod.event("Warning", "Failed", f"Error: {message}", self.spec["name"])

    def _running(self, started_at: str) -> None:
        self.state.state = {"running": {"startedAt": started_at}}
        self.state.started = "startupProbe" not in self.spec
        self.state.ready = self.state.started and "readinessProbe" not in self.spec
        self._pod.record()
        self._changed()
        self._background(self._pod.event("Normal", "Started", "Started container", self.spec["name"]))
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook:
            self._background(self._post_start(hook))
        if "startupProbe" in self.spec:
            self._watch("startupProbe", False, self._on_startup)
        else:
            self._started.set()
            self._watch_life()

    def _watch_life(self) -> None:
        self._watch("livenessProbe", True, self._on_liveness)
        self._watch("readinessProbe", False, self._on_readiness)

    def _watch(self, kind: str, initially: bool, report: Callable[[bool, str], None]) -> None:
        if kind in self.spec:
            self._background(probes.watch(self._target(), self.spec[kind], initially, report))

    def _target(self) -> probes.Target:
        return probes.Target(self.spec, self._pod.facts.ip, self._run_inside, self._pod.probe_session)

    async def _run_inside(self, command: list[str], seconds: float) -> tuple[bool, str]:
        assert self.process is not None
        assert self._launched is not None
        return await run_inside(self.process, self._launched, command, seconds)

    def _on_startup(self, passed: bool, message: str) -> None:
        if not passed:
            self._unhealthy("Startup", message)
            return
        if self.state.started:
            return
        self.state.started = True
        self._started.set()
        self.state.ready = "readinessProbe" not in self.spec
        self._changed()
        self._watch_life()

    def _on_liveness(self, passed: bool, message: str) -> None:
        if not passed:
            self._unhealthy("Liveness", message)

    def _on_readiness(self, passed: bool, message: str) -> None:
        if self.state.ready == passed:
            return
        self.state.ready = passed
        self._changed()
        if not passed:
            self._background(self._say_unhealthy("Readiness", message))

    def _unhealthy(self, kind: str, message: str) -> None:
        probe = self.spec[f"{kind.lower()}Probe"]
        grace = probe.get("terminationGracePeriodSeconds", self._pod.grace)
        if self.process is not None and not self._stopping.is_set():
            self._detached(self._say_unhealthy(kind, message))
            # Not one of the run's own tasks: those are cancelled when the process ends.
            self._detached(self._end(self.process, grace))

    async def _say_unhealthy(self, kind: str, message: str) -> None:
        await self._pod.event("Warning", "Unhealthy", f"{kind} probe failed: {message}", self.spec["name"])

    async def _post_start(self, hook: Object) -> None:
        passed, message = await probes.act(self._target(), hook, 30.0)
        if not passed and self.process is not None:
            await self._pod.event("Warning", "FailedPostStartHook", message, self.spec["name"])
            self._detached(self._end(self.process, self._pod.grace))

    async def _end(self, process: Process, grace: float) -> None:
        deadline = time.monotonic() + grace
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace > 0:
            await self._pre_stop(hook, grace)
        process.send(signal.SIGTERM)
        left = deadline - time.monotonic()
        if hook and grace > 0:
            left = max(left, LEAST_GRACE_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), max(left, 0))
            return
        process.send(signal.SIGKILL)
        await process.wait()

    async def _pre_stop(self, hook: Object, grace: float) -> None:
        passed, message = False, "used up the grace period"
        with contextlib.suppress(TimeoutError):
            passed, message = await asyncio.wait_for(probes.act(self._target(), hook, grace), grace)
        if not passed:
            await self._pod.event("Warning", "FailedPreStopHook", message, self.spec["name"])

    def _ended(self, ended: Exit, started_at: str) -> None:
        reason = "Completed" if ended.code == 0 else "Error"
        terminated: Object = {
            "exitCode": ended.code,
            "reason": "StartError" if ended.error else reason,
            "startedAt": started_at,
            "finishedAt": timestamp(),
        }
        if ended.signal:
            terminated["signal"] = ended.signal
        message = ended.error or self._message(ended)
        if message:
            terminated["message"] = message
        self.process = None
        self.state.state = {"terminated": terminated}
        self.state.ready = self.state.started = False
        self._pod.record()
        self._changed()

    def _message(self, ended: Exit) -> str:
        name = self.spec["name"]
        written = _tail(launch.message_file(self._pod, name), MESSAGE_LIMIT)
        fallback = self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if not written and fallback and ended.code != 0:
            lines = _tail(self._pod.log(name, self.state.restarts), MESSAGE_LIMIT // 2).splitlines(
                keepends=True
            )
            return "".join(lines[-80:])
        return written

    async def _back_off(self, delay: float) -> None:
        self.state.last = self.state.state
        message = f"back-off {delay:g}s restarting failed container={self.spec['name']}"
        if delay > 0:
            self._wait_for("CrashLoopBackOff", message)
            await self._pod.event("Warning", "BackOff", message, self.spec["name"])
            await self._pause(delay)

    def _wait_for(self, reason: str, message: str) -> None:
        self.state.state = {"waiting": {"reason": reason, "message": message}}
        self._changed()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _detached(self, work: Coroutine[Any, Any, None]) -> None:
        self._pod.detached(work)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()


def _tail(path: Path, limit: int) -> str:
    """The last bytes of a file, as text that is no longer than they were."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read(limit).decode(errors="ignore")
    except OSError:
        return ""

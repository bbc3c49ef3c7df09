"""One run of one container: the launcher process and the main process that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..processes import start_time


@dataclass(frozen=True)
class Bind:
    source: str
    target: str
    readOnly: bool = False  # noqa: N815 - the launcher's JSON


@dataclass(frozen=True)
class LaunchSpec:
    """The launcher's input; field by field the `Spec` of launcher/spec.go."""

    args: list[str]
    env: list[str]
    workingDir: str  # noqa: N815
    log: str
    root: str
    uid: int
    gid: int
    groups: list[int]
    capabilities: list[str]
    parent: int
    noNewPrivileges: bool  # noqa: N815
    readOnlyRoot: bool  # noqa: N815
    hidden: list[str] = field(default_factory=list)
    binds: list[Bind] = field(default_factory=list)


@dataclass(frozen=True)
class Exit:
    """`error` is set when the command never ran."""

    code: int
    signal: int = 0
    error: str = ""


class Process:
    def __init__(self, launcher: str, spec: LaunchSpec, folder: Path) -> None:
        self._command = [launcher, "run", str(folder / "launch.json")]
        self._spec = spec
        self._folder = folder
        self._child: asyncio.subprocess.Process | None = None
        self._exit: asyncio.Task[Exit] | None = None
        self.pid = 0
        self.started = 0  # as in processes.Record

    async def start(self) -> Exit | None:
        """None once the command runs; how it failed where it does not."""
        self._write_spec()
        self._child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        event = await self._event()
        if event.get("event") == "started":
            self.pid = int(str(event["pid"]))
            self.started = start_time(self.pid) or 0
            self._exit = asyncio.create_task(self._wait())
            return None
        await self._child.wait()
        return _exit(event)

    def _write_spec(self) -> None:
        Path(self._spec.root).mkdir(parents=True, exist_ok=True)
        (self._folder / "launch.json").write_text(json.dumps(asdict(self._spec)))

    async def wait(self) -> Exit:
        assert self._exit is not None, "not started"
        return await asyncio.shield(self._exit)

    def send(self, number: signal.Signals) -> None:
        """To the main process. It is process 1 of its namespace: SIGKILL ends all of the container."""
        if self.pid and start_time(self.pid) == self.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _wait(self) -> Exit:
        event = await self._event()
        assert self._child is not None
        await self._child.wait()
        return _exit(event)

    async def _event(self) -> dict[str, object]:
        assert self._child is not None
        assert self._child.stdout is not None
        line = await self._child.stdout.readline()
        # No line: somebody killed the launcher, and the container died with it.
        lost = {"event": "exited", "exitCode": 137, "signal": 9}
        event: dict[str, object] = json.loads(line) if line else lost
        return event


def _exit(event: dict[str, object]) -> Exit:
    code, number = int(str(event["exitCode"])), int(str(event.get("signal", 0)))
    return Exit(code, number, str(event.get("error", "")))


async def run_inside(
    process: Process, spec: LaunchSpec, command: list[str], seconds: float
) -> tuple[bool, str]:
    """Run a command in the namespaces of a running container, as its user; (succeeded, output)."""
    as_user = ["-S", str(spec.uid), "-G", str(spec.gid)]
    if os.geteuid() != 0:  # the container has a user namespace, in which its user is the only one
        as_user = ["-U", "--preserve-credentials"]
    words = ["nsenter", "-t", str(process.pid), "-m", "-p", "-i", *as_user, "--", *command]
    env = dict(entry.split("=", 1) for entry in spec.env)
    child = await asyncio.create_subprocess_exec(
        *words,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), seconds)
    except TimeoutError:
        return False, f"timed out after {seconds:g} s"
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
    return child.returncode == 0, output.decode(errors="replace")[-1000:]

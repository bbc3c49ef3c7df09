"""Startup, liveness and readiness probes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from .api import Object

# (succeeded, what it said), within a time limit.
Exec = Callable[[list[str], float], Awaitable[tuple[bool, str]]]


@dataclass(frozen=True)
class Target:
    """Where a container's probes and HTTP hooks go."""

    container: Object
    ip: str
    run: Exec
    session: aiohttp.ClientSession


async def act(target: Target, action: Object, seconds: float) -> tuple[bool, str]:
    """Do what a probe or a lifecycle hook says, once."""
    try:
        if "httpGet" in action:
            return await _http(target, action["httpGet"], seconds)
        if "tcpSocket" in action:
            return await _tcp(target, action["tcpSocket"], seconds)
        if "grpc" in action:
            return await _tcp(target, action["grpc"], seconds)
        if "exec" in action:
            return await target.run(action["exec"]["command"], seconds)
        if "sleep" in action:
            await asyncio.sleep(action["sleep"]["seconds"])
            return True, ""
        return False, f"{sorted(action)} is not supported"
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        return False, str(error) or type(error).__name__


async def watch(target: Target, probe: Object, initially: bool, report: Callable[[bool, str], None]) -> None:
    """Probe forever; tell each change of verdict, counted by the probe's thresholds."""
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    verdict, told, run = initially, initially, 0
    while True:
        succeeded, message = await act(target, probe, probe.get("timeoutSeconds", 1))
        run = run + 1 if succeeded == verdict else 1
        verdict = succeeded
        needed = probe.get("successThreshold", 1) if succeeded else probe.get("failureThreshold", 3)
        if run >= needed and (verdict != told or not verdict):
            report(verdict, message)
            told = verdict
        await asyncio.sleep(probe.get("periodSeconds", 10))


def port(container: Object, named: int | str) -> int:
    if isinstance(named, int) or named.isdigit():
        return int(named)
    for entry in container.get("ports") or []:
        if entry.get("name") == named:
            return int(entry["containerPort"])
    raise OSError(f"port {named!r} is not declared")


async def _http(target: Target, get: Object, seconds: float) -> tuple[bool, str]:
    host = get.get("host") or target.ip
    scheme = get.get("scheme", "HTTP").lower()
    url = f"{scheme}://{host}:{port(target.container, get['port'])}{get.get('path') or '/'}"
    headers = {header["name"]: header["value"] for header in get.get("httpHeaders") or []}
    limit = aiohttp.ClientTimeout(total=seconds)
    # A kubelet does not verify certificates of probes either; and each probe is a connection of its own.
    async with target.session.get(url, headers=headers, timeout=limit, ssl=False) as response:
        text = (await response.content.read(1024)).decode(errors="replace")
        return (
            200 <= response.status < 400,
            f"HTTP probe failed with statuscode: {response.status}: {text[:200]}",
        )


async def _tcp(target: Target, socket: Object, seconds: float) -> tuple[bool, str]:
    host = socket.get("host") or target.ip
    connecting = asyncio.open_connection(host, port(target.container, socket["port"]))
    _, writer = await asyncio.wait_for(connecting, seconds)
    writer.close()
    return True, ""

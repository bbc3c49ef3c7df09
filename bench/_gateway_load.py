"""Load for the gateway's benchmark: as much as a server takes, and a fixed rate that is well below that."""

import asyncio
import json
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from imagefleet_runtime.gateway.upstream import Reply, Upstream

from bench._gateway_processes import BUILD, System

PATH = "/v1/images/generations"
BODY = {"model": "shapes", "prompt": "a red circle above a blue square on white", "n": 1, "size": "512x512"}
CONNECTIONS = 16


@dataclass(frozen=True)
class Latency:
    """Seconds."""

    p50: float
    p99: float


def saturate(system: System, seconds: float) -> float:
    """Requests per second of the server's own CPU time, under as much load as it takes."""
    before = system.cpu_seconds()
    count = (
        _wrk(system.port, seconds) if shutil.which("wrk") else uvloop.run(_closed_loop(system.port, seconds))
    )
    return count / (system.cpu_seconds() - before)


def _wrk(port: int, seconds: float) -> int:
    """Load by wrk, which takes the least CPU from the server; the number of replies. Raises RuntimeError on
    any error.
    """
    script = Path(BUILD / "post.lua")
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = {json.dumps(json.dumps(BODY))}\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
        "done = function(s) print(s.requests, s.errors.status + s.errors.connect + s.errors.read) end\n",
        encoding="ascii",
    )
    url = f"http://127.0.0.1:{port}{PATH}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    requests, errors = map(int, output.splitlines()[-1].split())
    if errors:
        raise RuntimeError(f"{errors} of {requests} requests failed:\n{output}")
    return requests


async def _closed_loop(port: int, seconds: float) -> int:
    client, deadline, count = Upstream(), time.monotonic() + seconds, 0

    async def caller() -> None:
        nonlocal count
        while time.monotonic() < deadline:
            await _request(client, port)
            count += 1

    await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
    client.close()
    return count


async def _request(client: Upstream, port: int) -> None:
    reply = await client.post(
        "127.0.0.1", port, PATH.encode(), b"Bearer unused", b"bench", json.dumps(BODY).encode()
    )
    if not isinstance(reply, Reply) or reply.status != 200:
        raise RuntimeError(f"not a picture: {reply!r:.300}")


def latencies(system: System, rate: float, seconds: float) -> list[float]:
    """Seconds that each request took, sent at a fixed rate whether or not earlier ones have returned."""
    took: list[float] = uvloop.run(_open_loop(system.port, rate, seconds))
    return took


async def _open_loop(port: int, rate: float, seconds: float) -> list[float]:
    client, took = Upstream(), list[float]()

    async def one(due: float) -> None:
        await asyncio.sleep(due - time.monotonic())
        start = time.monotonic()
        await _request(client, port)
        took.append(time.monotonic() - start)

    first = time.monotonic() + 0.1
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            tasks.create_task(one(first + number / rate))
    client.close()
    return took


def percentiles(samples: list[float]) -> Latency:
    cuts = statistics.quantiles(samples, n=100)
    return Latency(p50=cuts[49], p99=cuts[98])

"""A real worker process on the loopback address, with the tiny models of the demo, and a client of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from imagefleet_runtime.worker.source import DigestCache, inspect
from PIL import Image

from tests.cluster.fleet import MODELS
from tests.pictures import opened

Json = dict[str, Any]

KEY = Ed25519PrivateKey.generate()
PROMPT = "a secret castle"
MANY_STEPS = 300  # seconds of work for the tiny model, so that something can happen meanwhile
LIMIT_SECONDS = 240  # for a start (it imports torch) and for a request, on a machine with other work
OTHER_SIZE: Json = {"width": 72, "height": 64}  # than the default: not drawn in one batch with it
LIMITS = {"maxMegapixels": 0.02, "maxSteps": 1000, "maxImages": 3}


def bearer(caller: str) -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": f"imagefleet-{caller}", "aud": "team-a/images", "iat": now, "exp": now + 300}
    return {"authorization": f"Bearer {jwt.encode(claims, KEY, algorithm='EdDSA')}"}


@dataclass
class Worker:
    """A worker process and a client of it."""

    process: subprocess.Popen[bytes]
    client: httpx.AsyncClient
    output: Path

    async def state(self) -> Json:
        answer = await self.client.get("/v1/worker", headers=bearer("operator"))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def model(self, name: str) -> Json:
        return next((model for model in (await self.state())["models"] if model["model"] == name), {})

    async def put(self, *entries: Json) -> httpx.Response:
        return await self.client.put(
            "/v1/worker/models", headers=bearer("operator"), json={"models": entries}
        )

    async def generate(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": "tiny-1", "prompt": PROMPT, "steps": 2, **fields}
        return await self.client.post("/v1/generate", headers=bearer("gateway") | (headers or {}), json=body)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not await holds():
                assert self.process.poll() is None, self.output.read_text()
                await asyncio.sleep(0.02)

    async def until_state(self, name: str, state: str) -> Json:
        async def holds() -> bool:
            return (await self.model(name)).get("state") == state

        await self.until(holds)
        return await self.model(name)

    async def has_restarted(self, name: str, times: int) -> bool:
        return bool((await self.model(name))["restarts"] == times)

    async def until_running(self, name: str = "tiny-1") -> None:
        async def holds() -> bool:
            return bool((await self.model(name)).get("running") == 1)

        await self.until(holds)

    async def fill(self) -> list[asyncio.Task[httpx.Response]]:
        """A long request that runs, and one of another size, which waits behind it."""
        running = asyncio.create_task(self.generate(steps=MANY_STEPS))
        await self.until_running()
        waiting = asyncio.create_task(self.generate(**OTHER_SIZE))

        async def one_waits() -> bool:
            return bool((await self.model("tiny-1"))["queued"] == 1)

        await self.until(one_waits)
        return [running, waiting]

    def engine_pids(self) -> list[int]:
        """The engines: processes whose parent is the importer, this process's child."""
        return engines_of(self.process.pid)


def engines_of(worker: int) -> list[int]:
    """The engines of a worker's process: children of its child, the importer."""
    return [pid for child in children_of(worker) for pid in children_of(child)]


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def entries() -> dict[str, Json]:
    """Policy entries of the two demo models, not pinned."""
    return {name: entry_of(name, MODELS / name) for name in ("tiny-1", "tiny-2")}


def entry_of(name: str, folder: Path) -> Json:
    return {
        "model": name,
        "path": str(folder),
        "digest": inspect(folder, DigestCache()).digest,
        "defaults": {"steps": 2, "guidanceScale": 5.0, "size": "64x64"},
        "limits": LIMITS,
    }


def start_worker(folder: Path, **settings: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "IMAGEFLEET_NAMESPACE": "team-a",
        "IMAGEFLEET_POOL": "images",
        "IMAGEFLEET_POD": "images-workers-1",
        "IMAGEFLEET_CALLER_PUBLIC_KEY": public,
        "IMAGEFLEET_HOST": "127.0.0.1",
        "IMAGEFLEET_PORT": str(port),
        "IMAGEFLEET_TORCH_THREADS": "1",
        **settings,
    }
    command = [sys.executable, "-m", "imagefleet_runtime.worker.main", "serve"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    return process, f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def connect(process: subprocess.Popen[bytes], address: str, output: Path) -> AsyncIterator[Worker]:
    async with httpx.AsyncClient(base_url=address, timeout=LIMIT_SECONDS) as client:
        worker = Worker(process, client, output)

        async def ready() -> bool:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await worker.until(ready)
        yield worker


@contextlib.asynccontextmanager
async def running_worker(folder: Path, *held: str, **settings: str) -> AsyncIterator[Worker]:
    """A worker from its start to its end, with the tiny models ``held`` pinned and resident."""
    process, address = start_worker(folder, **settings)
    try:
        async with connect(process, address, folder / "output") as worker:
            await worker.put(*(entries()[name] | {"pinned": True} for name in held))
            for name in held:
                await worker.until_state(name, "Resident")
            yield worker
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def picture(answer: httpx.Response, index: int = 0) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return opened(answer.json()["data"][index]["b64_json"])

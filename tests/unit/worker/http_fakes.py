"""A worker's HTTP face with nobody behind it who draws: tests answer its jobs. Served on the loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from imagefleet_runtime.worker import requests
from imagefleet_runtime.worker.app import create_app
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.checks import Checks, Hooks
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.policy import ModelPolicy, Policy
from imagefleet_runtime.worker.tracing import Tracing
from imagefleet_runtime.worker.waiting import Job, Outcome
from starlette.types import ASGIApp

ENTRY = ModelPolicy.model_validate(
    {
        "model": "shapes-1",
        "path": "/models/shapes-1",
        "digest": "sha256:" + "0" * 64,
        "defaults": {"steps": 20, "guidanceScale": 5.0, "size": "512x384"},
        "limits": {"maxMegapixels": 1.1, "maxSteps": 50, "maxImages": 4},
    }
)


NO_HOOKS = Hooks()


class Anybody:
    """An authenticator without doubts."""

    def check(self, *_arguments: Any) -> str:
        return "imagefleet-gateway"


class FakeNvml:
    def __init__(self) -> None:
        self.what_is_wrong: str | None = None

    def fault(self) -> str | None:
        return self.what_is_wrong


class FakeSupervisor:
    """Admits all; ``jobs`` holds what came, ``cancelled`` what it was told to drop."""

    alive = ready = True
    draining = False

    def __init__(self) -> None:
        self.model = Model(ENTRY)
        self.metrics = Metrics("team-a", "images", list, list)
        self.jobs: asyncio.Queue[Job] = asyncio.Queue()
        self.cancelled: asyncio.Queue[Job] = asyncio.Queue()
        self.policies: list[Policy] = []

    def apply(self, policy: Policy) -> None:
        self.policies.append(policy)

    def interrupt(self) -> None:
        self.draining = True

    def state(self) -> dict[str, Any]:
        return {"models": []}

    def submit(self, body: GenerateBody, request_id: str) -> Job:
        drawings = requests.resolve(body, self.model.entry, 7)
        job = Job(
            request_id=request_id,
            body=body,
            drawings=drawings,
            units=requests.units(drawings),
            model=self.model,
            arrived=time.monotonic(),
            priority=body.priority,
            deadline=time.monotonic() + 30,
            result=asyncio.get_running_loop().create_future(),
        )
        self.jobs.put_nowait(job)
        return job

    def cancel(self, job: Job, reason: str = "caller_left") -> None:
        job.result.cancel()
        self.metrics.cancelled(job.model.name, reason)
        self.cancelled.put_nowait(job)

    def known_model(self, name: str) -> Model | None:
        return self.model if name == self.model.name else None

    def work_seconds(self) -> float:
        return 0.0

    def ready_seconds(self) -> float:
        return 0.0

    def room_seconds(self) -> float:
        return 0.0

    def held(self) -> str:
        return self.model.name

    def count(self, code: str) -> float:
        """Requests that were answered with ``code``."""
        labels = {"namespace": "team-a", "pool": "images", "model": "shapes-1", "code": code}
        return self.metrics.registry.get_sample_value("imagefleet_worker_requests_total", labels) or 0.0


def make_app(
    supervisor: FakeSupervisor,
    tracing: Tracing | None = None,
    nvml: FakeNvml | None = None,
    hooks: Hooks = NO_HOOKS,
) -> ASGIApp:
    checks = Checks(hooks, supervisor.metrics)
    return create_app(supervisor, Anybody(), nvml or FakeNvml(), checks, tracing)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The address at which ``app`` is served."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listener = config.bind_socket()
    await server.startup(sockets=[listener])
    host, port = listener.getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        # Not server.shutdown: it sleeps.
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        listener.close()


@contextlib.asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of ``app``, over HTTP."""
    # Nothing here is TLS, and it takes 50 ms to read the certificates of all authorities.
    async with served(app) as address, httpx.AsyncClient(base_url=address, verify=False) as client:  # noqa: S501
        yield client


def answer(job: Job, *images: bytes) -> None:
    job.answer(Outcome(images, 0.5, tuple(() for _ in images)))


def fail(job: Job, error: ApiError) -> None:
    job.answer(error)


def ask(**fields: Any) -> bytes:
    return json.dumps({"model": "shapes-1", "prompt": "a secret castle", **fields}).encode()

"""The servers under test, and callers of them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.controlplane import free_ports
from tests.integration.worker_process import bearer, end, entry_of, start_worker

PROMPTS = (
    "a red circle",
    "a blue square on white",
    "a green triangle above a yellow circle",
    "a purple square",
)
START_SECONDS = 120
PNG = b"\x89PNG"


@dataclass
class Server:
    """``call`` draws one request (prompt, steps, seed) over ``connection`` and returns the PNG."""

    name: str
    port: int
    call: Callable[[http.client.HTTPConnection, dict[str, Any]], bytes]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)


def request(seed: int, steps: int) -> dict[str, Any]:
    return {"prompt": PROMPTS[seed % len(PROMPTS)], "steps": steps, "seed": seed}


def _post(connection: http.client.HTTPConnection, path: str, body: Any, headers: dict[str, str]) -> Any:
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {content[:300]!r}")
    return json.loads(content)


def call_baseline(connection: http.client.HTTPConnection, body: dict[str, Any]) -> bytes:
    return base64.b64decode(_post(connection, "/generate", body, {})["b64_json"])


class Worker:
    """A worker process of ours, without an operator: this plays its part."""

    def __init__(self, scratch: Path, threads: int, **settings: str) -> None:
        """``settings``: more of its environment."""
        scratch.mkdir()
        settings = {
            "IMAGEFLEET_TORCH_THREADS": str(threads),
            "IMAGEFLEET_CACHE_DIR": str(scratch / "cache"),
            **settings,
        }
        self.process, address = start_worker(scratch, **settings)
        self.port = int(address.rpartition(":")[2])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        self._models: dict[str, dict[str, Any]] = {}

    def until_ready(self) -> None:
        """Until the worker takes a policy."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.connection.request("GET", "/readyz")
                answer = self.connection.getresponse()
                answer.read()
                if answer.status == 200:
                    return
            self.connection.close()
            time.sleep(0.01)
        raise TimeoutError("the worker is not ready")

    def allow(self, name: str, folder: Path, *, pinned: bool, **fields: Any) -> None:
        """Add a model to the policy; ``fields``: more of its entry."""
        self._models[name] = {**entry_of(name, folder), "pinned": pinned, **fields}
        body = json.dumps({"models": list(self._models.values())})
        self.connection.request("PUT", "/v1/worker/models", body, bearer("operator"))
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {content[:300]!r}")

    def model(self, name: str) -> dict[str, Any]:
        self.connection.request("GET", "/v1/worker", headers=bearer("operator"))
        state = json.loads(self.connection.getresponse().read())
        return next(model for model in state["models"] if model["model"] == name)

    def until_resident(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            model = self.model(name)
            if model["state"] == "Resident":
                return model
            if model["state"] == "Failed":
                raise RuntimeError(f"{model['reason']}: {model['message']}")
            time.sleep(0.01)
        raise TimeoutError(f"{name} is not resident")

    def caller(self, model: str) -> Callable[[http.client.HTTPConnection, dict[str, Any]], bytes]:
        def call(connection: http.client.HTTPConnection, body: dict[str, Any]) -> bytes:
            answer = _post(connection, "/v1/generate", {"model": model, **body}, bearer("gateway"))
            return base64.b64decode(answer["data"][0]["b64_json"])

        return call

    def end(self) -> None:
        end(self.process)


@contextlib.contextmanager
def baseline(name: str, folder: Path, threads: int) -> Iterator[Server]:
    """A baseline server (``fastapi`` or ``litserve``), ready to draw."""
    port = free_ports(1)[0]
    module = f"bench._engine_{name}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(threads), str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            server = Server(name, port, call_baseline)
            _until_answers(server, process, log)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _until_answers(server: Server, process: subprocess.Popen[bytes], log: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.call(server.connect(), request(0, 2))
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    log.seek(0)
    raise RuntimeError(f"{server.name} does not answer:\n{log.read().decode()[-2000:]}")


def images_per_second(server: Server, callers: int, seconds: float, steps: tuple[int, ...]) -> float:
    """Pictures that ``callers`` got, each asking again at once, with mixed steps; the last ones are waited for."""
    counts = [0] * callers
    started = time.monotonic()

    def work(index: int) -> None:
        connection = server.connect()
        for number in itertools.count():
            if time.monotonic() - started >= seconds:
                return
            body = request(index * 1000 + number, steps[(index + number) % len(steps)])
            if not server.call(connection, body).startswith(PNG):
                raise RuntimeError(f"{server.name} answered with no picture")
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - started)

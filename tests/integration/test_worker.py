"""A real worker process on the loopback address, with the tiny models of the demo."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from imagefleet_runtime.worker.source import DigestCache, inspect
from PIL import Image

from tests.cluster.fleet import MODELS

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = Ed25519PrivateKey.generate()
PROMPT = "a secret castle"
MANY_STEPS = 300  # seconds of work for the tiny model, so that something can happen meanwhile
LIMITS = {"maxMegapixels": 0.02, "maxSteps": 1000, "maxImages": 3}
Json = dict[str, Any]


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
        async with asyncio.timeout(60):
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
        """A long request that runs and a short one that waits behind it."""
        running = asyncio.create_task(self.generate(steps=MANY_STEPS))
        await self.until_running()
        waiting = asyncio.create_task(self.generate())

        async def one_waits() -> bool:
            return bool((await self.model("tiny-1"))["queued"] == 1)

        await self.until(one_waits)
        return [running, waiting]

    def engine_pids(self) -> list[int]:
        """The engines: processes whose parent is the importer, this process's child."""
        children = _children(self.process.pid)
        return [pid for child in children for pid in _children(child)]


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.fixture(scope="session")
def models() -> dict[str, Json]:
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
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        worker = Worker(process, client, output)

        async def ready() -> bool:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await worker.until(ready)
        yield worker


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Any, ...]]]:
    """Two workers, started at the same time for both import torch: one for most tests, one to be filled and drained."""
    started: dict[str, tuple[Any, ...]] = {}
    for name, settings in (("shared", {}), ("small", {"IMAGEFLEET_QUEUE_LIMIT": "1"})):
        folder = tmp_path_factory.mktemp(name)
        started[name] = (*start_worker(folder, **settings), folder / "output")
    yield started
    for process, *_ in started.values():
        end(process)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(processes: dict[str, tuple[Any, ...]]) -> AsyncIterator[Worker]:
    async with connect(*processes["shared"]) as worker:
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def small(processes: dict[str, tuple[Any, ...]], models: dict[str, Json]) -> AsyncIterator[Worker]:
    """A worker in whose queue one request may wait, holding tiny-1."""
    async with connect(*processes["small"]) as worker:
        await worker.put(models["tiny-1"] | {"pinned": True})
        await worker.until_state("tiny-1", "Resident")
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def worker(shared: Worker, models: dict[str, Json]) -> Worker:
    """The shared worker, holding tiny-1 and nothing else."""
    await shared.put(models["tiny-1"] | {"pinned": True})
    await shared.until_state("tiny-1", "Resident")
    return shared


def picture(answer: httpx.Response, index: int = 0) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][index]["b64_json"])))


@pytest.mark.parametrize(("output_format", "want"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_a_picture_has_the_size_and_format_that_was_asked_for(
    worker: Worker, output_format: str, want: str
) -> None:
    answer = await worker.generate(width=72, height=48, output_format=output_format)
    drawn = picture(answer)
    assert (drawn.format, drawn.size) == (want, (72, 48))
    assert len(drawn.convert("RGB").getcolors(maxcolors=72 * 48) or []) > 100, "a plain surface was drawn"
    body = answer.json()
    assert (body["size"], body["output_format"], body["model"]) == ("72x48", output_format, "tiny-1")


async def test_a_reply_says_where_it_comes_from_and_what_is_left(worker: Worker) -> None:
    answer = await worker.generate({"x-request-id": "req-7"}, seed=42, quality="medium")
    headers = answer.headers
    assert headers["x-request-id"] == "req-7"
    assert (headers["x-imagefleet-model"], headers["x-imagefleet-seed"]) == ("tiny-1", "42")
    assert float(headers["x-imagefleet-work-seconds"]) == 0
    assert float(headers["x-imagefleet-rate"]) > 0
    assert float(headers["x-imagefleet-run-seconds"]) > 0
    assert float(headers["x-imagefleet-queue-seconds"]) >= 0
    assert answer.json()["quality"] == "medium"
    assert answer.json()["data"][0]["seed"] == 42


async def test_a_data_url_can_be_asked_for(worker: Worker) -> None:
    answer = await worker.generate(response_format="url", output_format="webp")
    assert answer.json()["data"][0]["url"].startswith("data:image/webp;base64,")


async def test_a_seed_draws_the_same_picture_again_and_another_seed_another(worker: Worker) -> None:
    first, again, other = [picture(await worker.generate(seed=seed)).tobytes() for seed in (7, 7, 8)]
    assert first == again != other


async def test_image_i_of_n_is_the_picture_of_seed_plus_i(worker: Worker) -> None:
    both = await worker.generate(seed=7, n=2)
    alone = await worker.generate(seed=8)
    assert picture(both, 1).tobytes() == picture(alone).tobytes()
    assert [item["seed"] for item in both.json()["data"]] == [7, 8]


async def test_prompt_negative_prompt_and_guidance_change_the_picture(worker: Worker) -> None:
    variants: list[Json] = [{}, {"prompt": "x"}, {"negative_prompt": "blue " * 9}, {"guidance_scale": 9.0}]
    pictures = {picture(await worker.generate(seed=7, **fields)).tobytes() for fields in variants}
    assert len(pictures) == len(variants)


BAD_INPUTS = {
    "a body that is no object": ({"raw": b"[]"}, "invalid_value", None),
    "a body that is no JSON": ({"raw": b"{"}, "invalid_value", None),
    "an unknown parameter": ({"stepz": 3}, "unknown_parameter", "stepz"),
    "no prompt": ({"prompt": None}, "invalid_value", "prompt"),
    "a number as text": ({"steps": "4"}, "invalid_value", "steps"),
    "a part of a step": ({"steps": 2.5}, "invalid_value", "steps"),
    "no steps": ({"steps": 0}, "invalid_value", "steps"),
    "too many steps": ({"steps": 1001}, "limit_exceeded", "num_inference_steps"),
    "no images": ({"n": 0}, "invalid_value", "n"),
    "too many images": ({"n": 4}, "limit_exceeded", "n"),
    "too many pixels": ({"width": 256, "height": 256}, "limit_exceeded", "size"),
    "a width without a height": ({"width": 64}, "invalid_value", "size"),
    "a width that is no multiple of 8": ({"width": 60, "height": 64}, "size_not_supported", "size"),
    "a height that is no multiple of 8": ({"width": 64, "height": 1}, "size_not_supported", "size"),
    "a negative width": ({"width": -64, "height": 64}, "invalid_value", "width"),
    "an unknown format": ({"output_format": "gif"}, "invalid_value", "output_format"),
    "a lossy png": ({"output_compression": 50}, "unsupported_parameter", "output_compression"),
    "a negative seed": ({"seed": -1}, "invalid_value", "seed"),
    "guidance that is not a number": ({"guidance_scale": "NaN"}, "invalid_value", "guidance_scale"),
    "a negative prompt without guidance": (
        {"negative_prompt": "x", "guidance_scale": 1.0},
        "unsupported_parameter",
        "negative_prompt",
    ),
}


@pytest.mark.parametrize(("fields", "code", "param"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
async def test_bad_input_is_refused_with_a_typed_error(
    worker: Worker, fields: Json, code: str, param: str | None
) -> None:
    if "raw" in fields:
        answer = await worker.client.post("/v1/generate", headers=bearer("gateway"), content=fields["raw"])
    else:
        answer = await worker.generate(**fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param), error["message"]
    assert PROMPT not in answer.text


async def test_a_bad_size_names_those_that_work(worker: Worker) -> None:
    answer = await worker.generate(width=60, height=64)
    assert "56 or 64" in answer.json()["error"]["message"]


async def test_a_model_that_is_not_in_the_policy_is_refused(worker: Worker) -> None:
    answer = await worker.generate(model="other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_allowed")


@pytest.mark.parametrize(
    ("method", "path", "caller", "want"),
    [
        ("GET", "/v1/worker", None, (401, "invalid_token")),
        ("PUT", "/v1/worker/models", None, (401, "invalid_token")),
        ("POST", "/v1/generate", None, (401, "invalid_token")),
        ("PUT", "/v1/worker/models", "gateway", (403, "wrong_caller")),
        ("POST", "/v1/generate", "operator", (403, "wrong_caller")),
    ],
)
async def test_each_call_has_its_caller(
    worker: Worker, method: str, path: str, caller: str | None, want: tuple[int, str]
) -> None:
    answer = await worker.client.request(
        method, path, headers=bearer(caller) if caller else {}, content=b"{}"
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == want


async def test_a_bad_policy_is_refused_and_changes_nothing(worker: Worker, models: dict[str, Json]) -> None:
    for spoilt in ({"digest": "sha256:abc"}, {"path": "relative"}, {"pinned": "yes"}, {"colour": "red"}):
        answer = await worker.put(models["tiny-1"] | spoilt)
        assert answer.status_code == 400, spoilt
        assert answer.json()["error"]["param"] == f"models[0].{next(iter(spoilt))}"
    assert (await worker.put(models["tiny-1"], models["tiny-1"])).status_code == 400
    assert (await worker.model("tiny-1"))["state"] == "Resident"


async def test_the_state_reports_what_was_measured_and_nothing_else(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(models["tiny-1"] | {"pinned": True}, models["tiny-2"])
    state = await worker.state()
    resident, allowed = state["models"]
    assert (state["pod"], state["pool"], state["draining"]) == ("images-workers-1", "images", False)
    assert state["memory"]["totalBytes"] > 0
    assert state["devices"] == []
    assert resident["digest"] == models["tiny-1"]["digest"]
    assert resident["className"] == "StableDiffusionPipeline"
    assert 0 < resident["bytes"] < 10_000_000
    for measured in ("memoryBytes", "secondsPerMegapixelStep", "loadSeconds"):
        assert resident[measured] > 0
        assert measured not in allowed
    assert (allowed["state"], allowed["pinned"]) == ("Absent", False)


async def test_metrics_carry_pool_and_model(worker: Worker) -> None:
    await worker.generate()
    text = (await worker.client.get("/metrics")).text
    labels = 'model="tiny-1",namespace="team-a",pool="images"'
    assert f"imagefleet_worker_generation_seconds_count{{{labels}}}" in text
    assert (
        f"imagefleet_worker_resident{{{labels.replace(',', ',')}}} 1.0" in text
        or "imagefleet_worker_resident" in text
    )


async def test_a_model_of_the_wrong_digest_never_loads_until_it_is_put_right(
    worker: Worker, models: dict[str, Json]
) -> None:
    entry = models["tiny-2"] | {"pinned": True}
    await worker.put(entry | {"digest": "sha256:" + "0" * 64})
    failed = await worker.until_state("tiny-2", "Failed")
    assert failed["reason"] == "DigestMismatch"
    answer = await worker.generate(model="tiny-2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
    assert int(answer.headers["retry-after"]) >= 1
    await worker.put(entry)
    await worker.until_state("tiny-2", "Resident")


async def test_a_policy_swaps_one_model_for_another(worker: Worker, models: dict[str, Json]) -> None:
    [before] = worker.engine_pids()
    await worker.put(models["tiny-2"] | {"pinned": True})
    await worker.until_state("tiny-2", "Resident")
    assert picture(await worker.generate(model="tiny-2")).size == (64, 64)

    async def one_engine_left() -> bool:
        return before not in worker.engine_pids() and len((await worker.state())["models"]) == 1

    await worker.until(one_engine_left)


async def test_an_allowed_model_is_loaded_when_a_request_comes(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(models["tiny-1"] | {"pinned": True}, models["tiny-2"])
    assert (await worker.model("tiny-2"))["state"] == "Absent"
    assert picture(await worker.generate(model="tiny-2")).size == (64, 64)
    assert (await worker.model("tiny-2"))["state"] == "Resident"


async def test_the_least_recently_used_model_makes_room(worker: Worker, models: dict[str, Json]) -> None:
    total = (await worker.state())["memory"]["totalBytes"]
    big = {name: models[name] | {"memoryBytes": total - 1} for name in models}
    await worker.put()
    await worker.put(big["tiny-1"], big["tiny-2"])
    assert (await worker.generate(model="tiny-1")).status_code == 200
    # Its measured size is small, and room for the other's declared size is all there is.
    assert (await worker.generate(model="tiny-2")).status_code == 200
    assert (await worker.model("tiny-1"))["state"] == "Absent"


async def test_a_pinned_model_that_cannot_fit_fails_and_says_so(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(
        models["tiny-1"] | {"pinned": True}, models["tiny-2"] | {"pinned": True, "memoryBytes": 2**60}
    )
    failed = await worker.until_state("tiny-2", "Failed")
    assert failed["reason"] == "DoesNotFit"
    assert str(2**60) in failed["message"]


async def test_a_killed_engine_fails_its_request_and_the_next_ones_are_drawn(worker: Worker) -> None:
    restarts = (await worker.model("tiny-1"))["restarts"]
    hit = asyncio.create_task(worker.generate(steps=MANY_STEPS))
    await worker.until_running()
    waiting = asyncio.create_task(worker.generate())
    [engine] = worker.engine_pids()
    os.kill(engine, signal.SIGKILL)
    failed = await hit
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_crashed")
    assert "SIGKILL" in failed.json()["error"]["message"]
    assert (await waiting).status_code == 200
    assert (await worker.model("tiny-1"))["restarts"] == restarts + 1
    assert (await worker.client.get("/livez")).status_code == 200


async def test_an_engine_that_keeps_dying_is_called_failed_and_loaded_again_later(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(models["tiny-2"] | {"pinned": True})
    for crashes in range(3):
        await worker.until_state("tiny-2", "Resident")
        await worker.until(lambda: _only_one(worker.engine_pids()))
        assert (await worker.model("tiny-2"))["restarts"] == crashes
        [engine] = worker.engine_pids()
        os.kill(engine, signal.SIGKILL)
        await worker.until(partial(worker.has_restarted, "tiny-2", crashes + 1))
    assert (await worker.model("tiny-2"))["reason"] == "EngineCrashed"
    await worker.until_state("tiny-2", "Resident")


async def _only_one(pids: list[int]) -> bool:
    return len(pids) == 1


async def test_weights_that_cannot_be_read_fail_the_load_and_nothing_else(
    worker: Worker, models: dict[str, Json], tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(MODELS / "tiny-1", folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"no weights at all")
    broken = entry_of("broken", folder)
    await worker.put(models["tiny-1"] | {"pinned": True}, broken)
    waiting = await worker.generate(model="broken")
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "model_loading")
    assert (await worker.model("broken"))["reason"] == "LoadFailed"
    refused = await worker.generate(model="broken")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_failed")
    assert (await worker.generate()).status_code == 200


async def test_a_caller_that_leaves_frees_the_device(worker: Worker) -> None:
    leaving = asyncio.create_task(worker.generate(steps=MANY_STEPS, n=3))
    await worker.until_running()
    leaving.cancel()
    answer = await worker.generate()
    assert answer.status_code == 200
    # Far less than the 900 steps that nobody waits for would take, on any machine.
    steps = float(answer.headers["x-imagefleet-rate"]) * 64 * 64 / 1e6 * 2 * 3 * MANY_STEPS
    assert float(answer.headers["x-imagefleet-queue-seconds"]) < steps / 2


async def test_a_full_queue_says_when_to_come_back(small: Worker) -> None:
    running, waiting = await small.fill()
    refused = await small.generate()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert float(refused.headers["x-imagefleet-work-seconds"]) > 0
    assert [(await task).status_code for task in (running, waiting)] == [200, 200]


async def test_a_drain_finishes_what_runs_and_refuses_what_waits(small: Worker) -> None:
    running, waiting = await small.fill()
    small.process.send_signal(signal.SIGTERM)
    refused = await waiting
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_draining")
    assert (await small.client.get("/readyz")).status_code == 503
    late = await small.generate()
    assert (late.status_code, late.json()["error"]["code"]) == (503, "worker_draining")
    assert picture(await running).size == (64, 64)
    assert await asyncio.to_thread(small.process.wait, 30) == 0
    assert '"stopped"' in small.output.read_text().splitlines()[-1]


async def test_logs_are_json_without_prompts_or_tokens(shared: Worker, models: dict[str, Json]) -> None:
    await shared.put(models["tiny-1"] | {"pinned": True})
    answer = await shared.generate({"x-request-id": "req-long"}, prompt=f"{PROMPT} " * 200, seed=5)
    assert answer.status_code == 200
    text = shared.output.read_text()
    assert PROMPT not in text
    assert "eyJ" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    [line] = [line for line in lines if line.get("request_id") == "req-long"]
    assert (line["model"], line["seed"], line["size"], line["steps"], line["code"]) == (
        "tiny-1",
        5,
        "64x64",
        2,
        "ok",
    )


async def test_a_worker_that_is_still_importing_ends_at_once_when_told_to(tmp_path: Path) -> None:
    process, address = start_worker(tmp_path)
    async with httpx.AsyncClient(base_url=address) as client, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/livez")).status_code == 200:
                    break
            await asyncio.sleep(0.02)
        ready = await client.get("/readyz")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert (ready.status_code, ready.text) == (503, "importing torch and diffusers")
    assert '"ready"' not in (tmp_path / "output").read_text()


async def test_a_worker_without_its_importer_is_not_live(shared: Worker) -> None:
    importer = next(pid for pid in _children(shared.process.pid) if "forkserver" in _command(pid))
    os.kill(importer, signal.SIGKILL)

    async def not_live() -> bool:
        return (await shared.client.get("/livez")).status_code == 503

    await shared.until(not_live)


async def test_bad_settings_end_the_worker_with_a_message(tmp_path: Path) -> None:
    process, _ = start_worker(tmp_path, IMAGEFLEET_QUEUE_LIMIT="many")
    assert await asyncio.to_thread(process.wait, 30) == 2
    assert "IMAGEFLEET_QUEUE_LIMIT" in (tmp_path / "output").read_text()


async def test_the_demo_model_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    script = [sys.executable, "scripts/demo_model.py", "--seed", "1", "--out", str(tmp_path / "again")]
    await asyncio.to_thread(subprocess.run, script, check=True, capture_output=True)
    again = inspect(tmp_path / "again", DigestCache())
    assert again == inspect(MODELS / "tiny-1", DigestCache())
    assert again.digest != inspect(MODELS / "tiny-2", DigestCache()).digest
    assert again.bytes < 10_000_000

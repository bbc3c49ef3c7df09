"""Tokens, calls to workers, and reading their reports."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from imagefleet_operator import workers
from imagefleet_operator.plan.types import Device, ModelReport, SizeReport
from imagefleet_operator.pod_http import CallError
from imagefleet_operator.store.reports import InvalidReportError, read_report
from imagefleet_operator.workers import (
    CallerKeyError,
    Tokens,
    WorkerClient,
    load_key,
    public_pem,
)

from tests.unit.operator.make import pod

KEY = Ed25519PrivateKey.generate()
REPORT = {"memory": {"totalBytes": 1000, "source": "host"}, "models": [], "devices": []}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_says_what_the_contract_says() -> None:
    clock = Clock()
    token = Tokens(KEY, clock).of("ns", "thumbs")
    assert jwt.get_unverified_header(token)["alg"] == "EdDSA"
    claims = jwt.decode(
        token,
        public_pem(KEY),
        algorithms=["EdDSA"],
        audience="ns/thumbs",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {"iss": "imagefleet-operator", "aud": "ns/thumbs", "iat": 1_000_000, "exp": 1_000_600}


def test_a_token_is_used_until_a_minute_before_its_end() -> None:
    clock = Clock()
    tokens = Tokens(KEY, clock)
    first = tokens.of("ns", "thumbs")
    assert tokens.of("ns", "other") != first
    clock.now += 539
    assert tokens.of("ns", "thumbs") == first
    clock.now += 1
    assert tokens.of("ns", "thumbs") != first


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_the_callers_key_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(KEY))
    assert public_pem(load_key(path)) == public_pem(KEY)


@pytest.mark.parametrize(
    "content", [None, b"no key", pem(X25519PrivateKey.generate())], ids=["no file", "no key", "x25519"]
)
def test_a_bad_key_says_which_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CallerKeyError, match=r"key\.pem"):
        load_key(path)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def client(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerClient]:
    """A client, and a worker at 127.0.0.1 that answers as told."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setattr(workers, "PORT", runner.addresses[0][1])
    made = WorkerClient(Tokens(KEY))
    try:
        yield made
    finally:
        await made.close()
        await runner.cleanup()


async def test_a_policy_is_put_with_a_token_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        jwt.decode(token, public_pem(KEY), algorithms=["EdDSA"], audience="ns/thumbs")
        seen.append((request.method, request.path, await request.json()))
        return web.json_response(REPORT)

    async with client(handler, monkeypatch) as made:
        report = await made.put_models(pod(ip="127.0.0.1"), [{"model": "a"}])
    assert seen == [("PUT", "/v1/worker/models", {"models": [{"model": "a"}]})]
    assert report.memory_total_bytes == 1000


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response(REPORT, status=503),
        lambda: web.json_response({"memory": {}}),
        lambda: web.Response(text="<html>"),
        lambda: web.json_response({**REPORT, "version": "x" * workers.REPORT_BYTES}),
    ],
    ids=["an error", "no report", "no JSON", "too much"],
)
async def test_any_other_answer_is_no_answer(
    answer: Callable[[], web.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer()

    async with client(handler, monkeypatch) as made:
        with pytest.raises(CallError):
            await made.report(pod(ip="127.0.0.1"))


async def test_a_worker_cannot_send_the_operator_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/elsewhere":
            return web.json_response(REPORT)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with client(handler, monkeypatch) as made:
        with pytest.raises(CallError, match="307"):
            await made.report(pod(ip="127.0.0.1"))


def test_a_report_is_read_as_far_as_plans_need_it() -> None:
    model = {
        "model": "m",
        "state": "Resident",
        "pinned": True,
        "digest": "d",
        "loadSeconds": 1.5,
        "memoryBytes": 7,
    }
    device = {"index": 0, "name": "NVIDIA H200", "accelerator": "NVIDIA-H200", "utilization": 0.5}
    report = read_report({**REPORT, "draining": True, "models": [model], "devices": [device]})
    assert report.models == (ModelReport("m", "Resident", True, "d", "", "", 7, None, 1.5),)
    assert report.devices == (Device("NVIDIA-H200", 0.5),)
    assert report.draining
    assert report.of("m") is report.models[0]
    assert report.of("other") is None


def test_a_report_tells_how_far_a_load_is_and_what_was_measured() -> None:
    loading = {
        "model": "m",
        "state": "Loading",
        "stage": "fetch",
        "fetchedBytes": 5,
        "fetchTotalBytes": 10,
        "modes": ["inpainting", "text-to-image", "text-to-video", "inpainting"],
        "sizes": [
            {"size": "512x512", "maxBatch": 4, "secondsPerStep": 0.05, "peakBytes": 9},
            {"size": "768x512", "maxBatch": 0},
            {"size": "huge", "maxBatch": 2},
        ],
    }
    (found,) = read_report({**REPORT, "models": [loading]}).models
    assert (found.fetching, found.fetched_bytes, found.fetch_total_bytes) == (True, 5, 10)
    assert found.modes == ("inpainting", "text-to-image")
    assert found.sizes == (SizeReport("512x512", 4, 0.05), SizeReport("768x512"))


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"state": "Failed", "reason": "OptionUnsupported", "message": "no fp8"}, "no fp8"),
        ({"state": "Failed", "reason": "LoadFailed", "message": "no fp8"}, ""),
        ({"state": "Loading", "reason": "OptionUnsupported", "message": "no fp8"}, ""),
    ],
    ids=["it says so", "it failed otherwise", "it tries again"],
)
def test_only_a_worker_that_failed_for_it_calls_an_option_unsupported(fields: Any, want: str) -> None:
    (found,) = read_report({**REPORT, "models": [{"model": "m", **fields}]}).models
    assert found.unsupported == want


@pytest.mark.parametrize("value", [None, "7", True, -1, float("nan"), float("inf")])
def test_a_number_that_is_none_is_no_opinion(value: object) -> None:
    model = {"model": "m", "state": "Resident", "pinned": True, "loadSeconds": value}
    assert read_report({**REPORT, "models": [model]}).models[0].load_seconds is None


@pytest.mark.parametrize(
    "device",
    [{"utilization": 63}, {"memoryUsedBytes": 1e300}, {"powerWatts": -1}],
    ids=lambda d: next(iter(d)),
)
def test_a_number_that_cannot_be_is_no_opinion(device: dict[str, float]) -> None:
    found = read_report({**REPORT, "devices": [{"accelerator": "x" * 500, **device}]}).devices
    assert found == (Device("x" * 128),)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"memory": {"totalBytes": "much"}},
        {**REPORT, "models": [{"model": "m"}]},
        {**REPORT, "models": [{"model": "m", "state": "Melting"}]},
        {**REPORT, "devices": [3]},
    ],
)
def test_what_is_no_report_is_refused(body: object) -> None:
    with pytest.raises(InvalidReportError):
        read_report(body)

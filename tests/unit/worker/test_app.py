"""The HTTP face beside `POST /v1/generate`."""

import json
from typing import Any

import httpx
import pytest
from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.app import create_app
from imagefleet_runtime.worker.auth import OPERATOR
from starlette.types import ASGIApp

from tests.unit.worker.http_fakes import FakeNvml, FakeSupervisor, make_app


class Nobody:
    """An authenticator that fails as no program should."""

    def check(self, *_arguments: Any) -> str:
        raise ZeroDivisionError("a secret")


async def call(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return await client.request(method, path, **options)


async def test_a_fault_of_the_worker_is_a_typed_error_without_its_details() -> None:
    app = create_app(supervisor=None, authenticator=Nobody(), nvml=None, checks=None)  # type: ignore[arg-type]
    answer = await call(app, "GET", "/v1/worker")
    assert (answer.status_code, json.loads(answer.text)["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/generate", 405), ("POST", "/v1/worker", 405)],
)
async def test_unknown_paths_and_methods_are_typed_errors(method: str, path: str, status: int) -> None:
    answer = await call(make_app(FakeSupervisor()), method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "not_found")


async def test_a_policy_that_is_too_long_is_refused() -> None:
    supervisor = FakeSupervisor()
    answer = await call(make_app(supervisor), "PUT", "/v1/worker/models", content=b" " * (1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert supervisor.policies == []


async def test_a_policy_is_handed_on_and_answered_with_the_state() -> None:
    supervisor = FakeSupervisor()
    answer = await call(make_app(supervisor), "PUT", "/v1/worker/models", content=b'{"models": []}')
    assert (answer.status_code, answer.json(), len(supervisor.policies)) == (200, {"models": []}, 1)


async def test_an_interruption_is_handed_on_and_answered_with_the_state() -> None:
    supervisor = FakeSupervisor()
    answer = await call(make_app(supervisor), "POST", "/v1/worker/interrupt")
    assert (answer.status_code, answer.json(), supervisor.draining) == (200, {"models": []}, True)


async def test_only_the_operator_may_interrupt() -> None:
    class Checked:
        def check(self, _header: Any, *callers: str) -> str:
            assert callers == (OPERATOR,)
            raise errors.wrong_caller("not the operator")

    supervisor = FakeSupervisor()
    app = create_app(supervisor, Checked(), nvml=None, checks=None)  # type: ignore[arg-type]
    answer = await call(app, "POST", "/v1/worker/interrupt")
    assert (answer.status_code, supervisor.draining) == (403, False)


async def test_a_worker_is_ready_where_nothing_is_wrong() -> None:
    answer = await call(make_app(FakeSupervisor()), "GET", "/readyz")
    assert (answer.status_code, answer.text) == (200, "ok")


async def test_a_worker_whose_device_is_faulty_is_not_ready_but_lives() -> None:
    nvml = FakeNvml()
    nvml.what_is_wrong = "device 0 (NVIDIA H200): Xid 79: it has fallen off the bus"
    app = make_app(FakeSupervisor(), nvml=nvml)
    ready, live = await call(app, "GET", "/readyz"), await call(app, "GET", "/livez")
    assert (ready.status_code, ready.text) == (503, nvml.what_is_wrong)
    assert live.status_code == 200  # another process on the same device would help nobody


@pytest.mark.parametrize(("draining", "why"), [(True, "draining"), (False, "importing torch and diffusers")])
async def test_a_worker_that_cannot_serve_says_why(draining: bool, why: str) -> None:
    supervisor = FakeSupervisor()
    supervisor.ready, supervisor.draining = False, draining
    answer = await call(make_app(supervisor), "GET", "/readyz")
    assert (answer.status_code, answer.text) == (503, why)

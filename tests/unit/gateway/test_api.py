"""The public API as callers see it: paths, errors, the openai client."""

import asyncio
import json
import re
from typing import Any

import openai
import pytest
from imagefleet_runtime.gateway import bodies
from imagefleet_runtime.gateway.main import drain

from tests.unit.gateway.builders import (
    FakeWorker,
    Harness,
    make_model,
    make_pool,
    make_settings,
    make_worker,
    until,
)

GENERATIONS = "/v1/images/generations"
JSON = {"content-type": "application/json"}

REFUSED: dict[str, tuple[str, str, dict[str, str], bytes, int, str]] = {
    "an unknown path": ("GET", "/v1/chat/completions", {}, b"", 404, "unknown_url"),
    "an unknown path by POST": ("POST", "/v1/images/variations", JSON, b"{}", 404, "unknown_url"),
    "GET where POST is": ("GET", GENERATIONS, {}, b"", 405, "method_not_allowed"),
    "POST where GET is": ("POST", "/v1/models", JSON, b"{}", 405, "method_not_allowed"),
    "a form": (
        "POST",
        GENERATIONS,
        {"content-type": "multipart/form-data"},
        b"{}",
        415,
        "unsupported_media_type",
    ),
    "a picture to edit alone": (
        "POST",
        "/v1/images/edits",
        {"content-type": "image/png"},
        b"",
        415,
        "unsupported_media_type",
    ),
    "a form without a boundary": (
        "POST",
        "/v1/images/edits",
        {"content-type": "multipart/form-data"},
        b"prompt=cat",
        400,
        "invalid_form",
    ),
    "GET where an edit is": ("GET", "/v1/images/edits", {}, b"", 405, "method_not_allowed"),
    "no content type": ("POST", GENERATIONS, {"content-type": ""}, b"{}", 415, "unsupported_media_type"),
    "a body that is too large": (
        "POST",
        GENERATIONS,
        JSON,
        b" " * (64 * 1024 * 1024 + 1),
        413,
        "body_too_large",
    ),
    "a body that is not JSON": ("POST", GENERATIONS, JSON, b"prompt=cat", 400, "invalid_json"),
    "an unknown model": ("POST", GENERATIONS, JSON, b'{"prompt": "a", "model": "x"}', 404, "model_not_found"),
    "an unknown model's description": ("GET", "/v1/models/x", {}, b"", 404, "model_not_found"),
}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "want_status", "want_code"), REFUSED.values(), ids=REFUSED.keys()
)
async def test_refuses_in_openais_words(
    gateway: Harness,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    want_status: int,
    want_code: str,
) -> None:
    gateway.set_fleet(make_worker())
    await asyncio.sleep(0)
    async with gateway.session.request(method, gateway.url + path, data=body, headers=headers) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (want_status, want_code)
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert response.headers["x-request-id"]


async def test_a_body_without_length_is_bounded_too(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 1_000_000)

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100_000

    async with gateway.session.post(gateway.url + GENERATIONS, data=chunks(), headers=JSON) as response:
        assert response.status == 413


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.01)
    arrived = asyncio.Event()

    async def half() -> Any:
        yield b'{"prompt": '
        await arrived.wait()

    async with gateway.session.post(gateway.url + GENERATIONS, data=half(), headers=JSON) as response:
        error = (await response.json())["error"]
    arrived.set()
    assert (response.status, error["code"], error["type"]) == (
        408,
        "request_timeout",
        "invalid_request_error",
    )
    assert response.headers["connection"] == "close"
    assert gateway.gateway.app.running == 0


async def test_405_says_what_is_allowed(gateway: Harness) -> None:
    async with gateway.session.delete(gateway.url + GENERATIONS) as response:
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("unfit", ["", "a b", "x" * 129, "new;line", "ümlaut"])
async def test_a_request_id_that_is_unfit_is_replaced(gateway: Harness, unfit: str) -> None:
    async with gateway.session.get(gateway.url + "/livez", headers={"x-request-id": unfit}) as response:
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_ready_after_all_three_kinds_were_listed(gateway: Harness) -> None:
    assert (await gateway.get("/livez"))[0] == 200
    assert await gateway.get("/readyz") == (503, "not listed yet: pods, inferencepools, imagemodels\n")
    gateway.gateway.fleet.replace("inferencepools", {})
    assert await gateway.get("/readyz") == (503, "not listed yet: pods, imagemodels\n")
    gateway.set_fleet(pools=(), models=())
    assert await gateway.get("/readyz") == (200, "ok\n")


async def test_models(gateway: Harness) -> None:
    gateway.set_fleet(make_worker())
    await asyncio.sleep(0)
    status, text = await gateway.get("/v1/models")
    listed = json.loads(text)
    assert (status, listed["object"], [model["id"] for model in listed["data"]]) == (200, "list", ["shapes"])
    for name in ("shapes", "art/shapes", "art%2Fshapes"):
        status, text = await gateway.get(f"/v1/models/{name}")
        assert (status, json.loads(text)["owned_by"]) == (200, "art")


def client(gateway: Harness) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)


async def test_the_openai_client_gets_a_picture(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        images = await caller.images.generate(prompt="a red circle", model="shapes", size="512x512", n=1)
        models = [model.id async for model in caller.models.list()]
        one = await caller.models.retrieve("art/shapes")
    assert images.data is not None
    assert images.data[0].b64_json == "aW1hZ2U="
    assert images.created == 1_763_800_000
    assert models == ["shapes"]
    assert one.owned_by == "art"


async def test_the_openai_client_passes_the_extras(gateway: Harness) -> None:
    extras = {"seed": 7, "negative_prompt": "blue", "num_inference_steps": 3, "guidance_scale": 2.5}
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        raw = await caller.images.with_raw_response.generate(prompt="a", model="shapes", extra_body=extras)
    assert raw.headers["x-imagefleet-seed"] == "7"
    (sent,) = worker.requests
    assert (sent["seed"], sent["negative_prompt"], sent["steps"], sent["guidance_scale"]) == (
        7,
        "blue",
        3,
        2.5,
    )


async def test_the_openai_client_raises_its_own_errors(impatient: Harness) -> None:
    impatient.set_fleet(models=(make_model(max_images=1),))
    async with client(impatient) as caller:
        with pytest.raises(openai.BadRequestError) as bad:
            await caller.images.generate(prompt="a", model="shapes", n=2)
        with pytest.raises(openai.NotFoundError) as missing:
            await caller.images.generate(prompt="a", model="dall-e-3")
        with pytest.raises(openai.InternalServerError) as loading:
            await caller.images.generate(prompt="a", model="shapes")
    assert (bad.value.code, bad.value.param) == ("limit_exceeded", "n")
    assert missing.value.code == "model_not_found"
    assert (loading.value.code, loading.value.response.headers["retry-after"]) == ("model_loading", "12")


async def test_the_openai_client_comes_back_after_retry_after(impatient: Harness) -> None:
    impatient.set_fleet(models=(make_model(load_seconds=1),))
    async with FakeWorker().serving() as worker, client(impatient) as caller:
        request = asyncio.create_task(
            caller.with_options(max_retries=2).images.generate(prompt="a", model="shapes")
        )
        await until(lambda: impatient.log)
        impatient.set_fleet(worker.view())
        images = await request
    assert images.data is not None
    assert [line["code"] for line in impatient.log] == ["model_loading", ""]


async def test_a_draining_gateway_finishes_what_it_has(gateway: Harness) -> None:
    settings = make_settings(IMAGEFLEET_GRACE_SECONDS="60")
    gateway.set_fleet()
    request = asyncio.create_task(gateway.post({"prompt": "a"}))
    await until(lambda: len(gateway.gateway.line))
    draining = asyncio.create_task(drain(gateway.server, gateway.gateway.app, settings))
    await until(lambda: gateway.gateway.app.draining)
    assert await gateway.get("/readyz") == (503, "draining\n")
    async with gateway.session.get(gateway.url + "/livez") as response:
        assert response.headers["connection"] == "close"
    assert not gateway.server.should_exit
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        status, _, _ = await request
    await draining
    assert status == 200
    assert gateway.server.should_exit


async def test_a_draining_gateway_does_not_wait_longer_than_its_grace(gateway: Harness) -> None:
    settings = make_settings(IMAGEFLEET_GRACE_SECONDS="0")
    gateway.set_fleet(pools=(make_pool(),))
    request = asyncio.create_task(gateway.post({"prompt": "a"}))
    await until(lambda: len(gateway.gateway.line))
    await drain(gateway.server, gateway.gateway.app, settings)
    assert gateway.server.should_exit
    request.cancel()

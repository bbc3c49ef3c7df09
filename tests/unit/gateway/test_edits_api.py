"""Edits as callers send them: through the real application to fake workers, over loopback sockets."""

import base64
import io
import json
import time
from typing import Any

import openai
import pytest

from tests.unit.gateway.builders import FakeWorker, Harness, data_url, encoded, make_model, refuses, until

PNG = encoded("PNG", (64, 48))
MASK = encoded("PNG", (64, 48), compress_level=0)
EXTRAS = {
    "seed": 7,
    "strength": 0.5,
    "negative_prompt": "blue",
    "num_inference_steps": 10,
    "guidance_scale": 2.5,
    "priority": "batch",
}


def client(gateway: Harness) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)


def pictures(sent: dict[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(sent.pop(name)) for name in ("image", "mask") if name in sent}


async def test_the_openai_client_edits_a_picture(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        raw = await caller.images.with_raw_response.edit(
            image=io.BytesIO(PNG), prompt="a red circle", model="shapes", extra_body={"seed": 42}
        )
    images = raw.parse()
    assert images.data is not None
    assert images.data[0].b64_json == "aW1hZ2U="
    assert raw.headers["x-imagefleet-seed"] == "42"
    (sent,) = worker.requests
    assert pictures(sent) == {"image": PNG}
    assert sent == {
        "model": "shapes-1",
        "pool_model": "shapes",
        "prompt": "a red circle",
        "seed": 42,
        "quality": "medium",
    }


async def test_the_openai_client_inpaints_with_all_extras(gateway: Harness) -> None:
    adapters = [{"name": "pixel", "scale": 0.8}, {"name": "ink", "scale": 1}]
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view(), models=(make_model(adapters=("pixel", "ink")),))
        await caller.images.edit(
            image=("a.png", PNG, "image/png"),
            mask=("m.png", MASK, "image/png"),
            prompt="a red circle",
            model="shapes",
            n=2,
            size="512x512",
            output_format="webp",
            output_compression=80,
            background="opaque",
            input_fidelity="low",
            user="someone",
            extra_body=EXTRAS | {"adapters": adapters},
        )
        await caller.images.edit(
            image=[PNG], prompt="a", model="shapes", extra_body={"adapters": json.dumps(adapters)}
        )
    sent, as_json = worker.requests
    assert pictures(sent) == {"image": PNG, "mask": MASK}
    assert sent == {
        "model": "shapes-1",
        "pool_model": "shapes",
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "n": 2,
        "width": 512,
        "height": 512,
        "steps": 10,
        "guidance_scale": 2.5,
        "seed": 7,
        "strength": 0.5,
        "output_format": "webp",
        "output_compression": 80,
        "quality": "medium",
        "adapters": adapters,
        "priority": "batch",
    }
    assert as_json["adapters"] == adapters


async def test_an_edit_in_json(gateway: Harness) -> None:
    body = {"prompt": "a", "images": [{"image_url": data_url("JPEG", (64, 48))}], "strength": 0.3}
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        async with gateway.session.post(f"{gateway.url}/v1/images/edits", json=body) as response:
            assert response.status == 200
    (sent,) = worker.requests
    assert pictures(sent) == {"image": encoded("JPEG", (64, 48))}
    assert sent["strength"] == 0.3


async def test_an_edits_demand_counts_the_steps_that_are_drawn(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        await caller.images.edit(image=encoded("PNG", (512, 512)), prompt="a", model="shapes")
        _, text = await gateway.get("/v1/gateway")
    # 0.262144 megapixels, 16 of 20 steps, guided, at 0.01 s.
    assert json.loads(text)["models"][0]["arrivedWorkSeconds"] == pytest.approx(0.262144 * 16 * 2 * 0.01)


async def test_another_worker_gets_the_same_pictures(gateway: Harness) -> None:
    full = FakeWorker("w1", refuses(429, "queue_full", retry_after="3"))
    later = {"workSeconds": 500.0, "models": [{"model": "shapes-1", "state": "Resident"}]}
    async with full.serving(), FakeWorker("w2", state=later).serving() as good, client(gateway) as caller:
        gateway.set_fleet(full.view(), good.view())
        await until(lambda: gateway.gateway.fleet.loads["uid-w2"].work_left(time.monotonic()) > 100)
        await caller.images.edit(image=PNG, mask=MASK, prompt="a", model="shapes")
    sent = [[pictures(request) for request in worker.requests] for worker in (full, good)]
    assert sent == [[{"image": PNG, "mask": MASK}]] * 2


REFUSED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "a text": ({"image": b"cat"}, "invalid_image", "image"),
    "two pictures": ({"image": [PNG, PNG]}, "unsupported_parameter", "image"),
    "a mode that the model does not have": ({"image": PNG}, "unsupported_mode", "image"),
    "an adapter that the model does not have": (
        {"image": PNG, "mask": PNG, "extra_body": {"adapters": [{"name": "oil"}]}},
        "adapter_not_found",
        "adapters",
    ),
}


@pytest.mark.parametrize(("fields", "code", "param"), REFUSED.values(), ids=REFUSED.keys())
async def test_refuses(gateway: Harness, fields: dict[str, Any], code: str, param: str | None) -> None:
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view(), models=(make_model(capabilities=("text-to-image", "inpainting")),))
        with pytest.raises(openai.BadRequestError) as caught:
            await caller.images.edit(prompt="a", model="shapes", **fields)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert worker.requests == []
    assert gateway.log[0]["code"] == code


PASSED_ON = {
    "what does not fit into memory": (400, "size_exceeds_memory"),
    "a picture that cannot be decoded": (400, "invalid_image"),
    "a mode that the pipeline does not have": (400, "unsupported_mode"),
    "a body that is too large": (413, "body_too_large"),
}


@pytest.mark.parametrize(("status", "code"), PASSED_ON.values(), ids=PASSED_ON.keys())
async def test_passes_on_that_the_worker_refuses(gateway: Harness, status: int, code: str) -> None:
    async with FakeWorker(answer=refuses(status, code)).serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        with pytest.raises(openai.APIStatusError) as caught:
            await caller.images.edit(image=PNG, prompt="a", model="shapes")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert len(worker.requests) == 1


async def test_a_control_picture_reaches_the_worker(gateway: Harness) -> None:
    extras = {"control_image": data_url("PNG", (64, 48)), "control_scale": 0.5}
    async with FakeWorker().serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        await caller.images.generate(prompt="a", model="shapes", extra_body=extras)
    (sent,) = worker.requests
    assert base64.b64decode(sent["control_image"]) == PNG
    assert sent["control_scale"] == 0.5

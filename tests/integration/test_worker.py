"""What a worker answers: pictures, refusals, its state, metrics and logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path

import httpx
import pytest

from tests.integration.worker_process import (
    PROMPT,
    Json,
    Worker,
    bearer,
    picture,
    start_worker,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    "more images than a number holds": ({"n": 10**400}, "invalid_value", "n"),
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
    for spoilt in (
        {"digest": "sha256:abc"},
        {"path": "relative"},
        {"pinned": "yes"},
        {"colour": "red"},
        {"model": "a\nb"},
    ):
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
    assert f"imagefleet_worker_resident{{{labels}}} 1.0" in text


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


async def test_bad_settings_end_the_worker_with_a_message(tmp_path: Path) -> None:
    process, _ = start_worker(tmp_path, IMAGEFLEET_QUEUE_LIMIT="many")
    assert await asyncio.to_thread(process.wait, 30) == 2
    assert "IMAGEFLEET_QUEUE_LIMIT" in (tmp_path / "output").read_text()

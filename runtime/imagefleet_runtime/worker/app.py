"""The worker's HTTP face."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.auth import GATEWAY, OPERATOR, Authenticator
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.policy import GenerateBody, Policy, parse
from imagefleet_runtime.worker.supervisor import Supervisor
from imagefleet_runtime.worker.waiting import Job, Outcome

MAX_BODY_BYTES = 1024 * 1024
# What may stand in a header and in a log line as it came.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def create_app(supervisor: Supervisor, authenticator: Authenticator) -> FastAPI:
    app = FastAPI(title="imagefleet worker", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(errors.ApiError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_fault)
    _add_health(app, supervisor)

    @app.get("/v1/worker")
    async def worker(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), OPERATOR, GATEWAY)
        return JSONResponse(supervisor.state())

    @app.put("/v1/worker/models")
    async def put_models(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), OPERATOR)
        supervisor.apply(parse(Policy, await _read_body(request)))
        return JSONResponse(supervisor.state())

    @app.post("/v1/generate")
    async def generate(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), GATEWAY)
        return await _Generation(supervisor, request).answer()

    return app


def _add_health(app: FastAPI, supervisor: Supervisor) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return _health(supervisor.alive, "the importer or a loop of the supervisor has ended")

    @app.get("/readyz")
    async def readyz() -> Response:
        return _health(
            supervisor.ready, "draining" if supervisor.draining else "importing torch and diffusers"
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(supervisor.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _health(good: bool, why_not: str) -> Response:
    return PlainTextResponse("ok" if good else why_not, 200 if good else 503)


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ApiError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as all other errors."""
    assert isinstance(error, HTTPException)
    known = errors.ApiError(error.status_code, "invalid_request_error", "not_found", str(error.detail))
    return JSONResponse(known.body(), known.status)


async def _answer_fault(_request: Request, _error: Exception) -> Response:
    """A fault of this program: the exception itself goes to the log."""
    fault = errors.ApiError(500, "server_error", "internal_error", "the worker failed; its log says why")
    return JSONResponse(fault.body(), fault.status)


async def _read_body(request: Request) -> bytes:
    """Raises ApiError where it is longer than MAX_BODY_BYTES."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise errors.invalid("invalid_value", f"the body is longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)


class _Generation:
    """One ``POST /v1/generate``: admit, wait for the drawing or the caller's leaving, answer, log."""

    def __init__(self, supervisor: Supervisor, request: Request) -> None:
        self._supervisor = supervisor
        self._request = request
        given = request.headers.get("x-request-id", "")
        self._id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._body: GenerateBody | None = None
        self._job: Job | None = None
        self._run_seconds: float | None = None
        self._started = time.monotonic()

    async def answer(self) -> Response:
        try:
            self._body = parse(GenerateBody, await _read_body(self._request))
            self._job = self._supervisor.submit(self._body, self._id)
            outcome = await self._drawn(self._job)
        except errors.ApiError as error:
            self._record(error.code, error)
            return JSONResponse(error.body(), error.status, {**self._headers(), **error.headers()})
        except asyncio.CancelledError:
            self._record("cancelled")
            raise
        if outcome is None:
            self._record("client_disconnected")
            return Response(status_code=499)  # nobody reads it
        self._run_seconds = outcome.run_seconds
        self._record("ok")
        content = json.dumps(_reply(self._body, self._job, outcome)).encode()
        return Response(content, media_type="application/json", headers=self._headers())

    async def _drawn(self, job: Job) -> Outcome | None:
        """The outcome, or None where the caller left. Raises ApiError."""
        leaving = asyncio.create_task(self._left())
        ends: set[asyncio.Future[Any]] = {job.result, leaving}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if job.result.done():
                return job.result.result()
            return None
        finally:
            leaving.cancel()
            if not job.result.done():
                self._supervisor.cancel(job)

    async def _left(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _headers(self) -> dict[str, str]:
        """What is known of the request, for successes and errors alike."""
        headers = {
            "x-request-id": self._id,
            "x-imagefleet-work-seconds": f"{self._supervisor.work_seconds():.3f}",
        }
        model = self._supervisor.known_model(self._body.model) if self._body else None
        if model is not None:
            headers["x-imagefleet-model"] = model.name
            if model.known_rate is not None:
                headers["x-imagefleet-rate"] = f"{model.known_rate:.6g}"
        if self._job is not None:
            headers["x-imagefleet-seed"] = str(self._job.drawing.seed)
            headers["x-imagefleet-queue-seconds"] = f"{self._job.queue_seconds(time.monotonic()):.3f}"
        if self._run_seconds is not None:
            headers["x-imagefleet-run-seconds"] = f"{self._run_seconds:.3f}"
        return headers

    def _record(self, code: str, error: errors.ApiError | None = None) -> None:
        model = self._supervisor.known_model(self._body.model) if self._body else None
        self._supervisor.metrics.answered(model.name if model else "", code)
        drawing = self._job.drawing if self._job else None
        log(
            "request",
            request_id=self._id,
            code=code,
            status=error.status if error else None,
            param=error.param if error else None,
            model=model.name if model else None,
            seed=drawing.seed if drawing else None,
            size=f"{drawing.width}x{drawing.height}" if drawing else None,
            steps=drawing.steps if drawing else None,
            images=drawing.n if drawing else None,
            seconds=round(time.monotonic() - self._started, 3),
            run_seconds=None if self._run_seconds is None else round(self._run_seconds, 3),
        )


def _reply(body: GenerateBody, job: Job, outcome: Outcome) -> dict[str, Any]:
    """The body that the gateway hands on as it is: the OpenAI images reply, and each picture's seed."""
    drawing = job.drawing
    reply = {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": drawing.output_format,
        "quality": body.quality,
        "size": f"{drawing.width}x{drawing.height}",
        "model": job.model.name,
        "data": [_picture(image, drawing.seed + index, body) for index, image in enumerate(outcome.images)],
    }
    return {name: value for name, value in reply.items() if value is not None}


def _picture(image: bytes, seed: int, body: GenerateBody) -> dict[str, Any]:
    text = base64.b64encode(image).decode()
    if body.response_format == "url":
        return {"url": f"data:image/{body.output_format};base64,{text}", "seed": seed}
    return {"b64_json": text, "seed": seed}

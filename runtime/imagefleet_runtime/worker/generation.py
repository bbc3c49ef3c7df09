"""One ``POST /v1/generate``: admit, wait for the drawing or the caller's leaving, answer, log."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from imagefleet_runtime.worker import errors, spans, stream
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.checks import Checks, Findings
from imagefleet_runtime.worker.intake import Intake
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.messages import Draw
from imagefleet_runtime.worker.stream import CallerLeftError, EventStream
from imagefleet_runtime.worker.supervisor import Supervisor
from imagefleet_runtime.worker.tracing import Tracing
from imagefleet_runtime.worker.waiting import Job, Outcome, Picture

# What may stand in a header and in a log line as it came.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
UNSAFE = "unsafe"  # why what is left of a request is not drawn
CLIENT_DISCONNECTED = "client_disconnected"
CLIENT_CLOSED_REQUEST = 499  # nobody reads it


class Generation:
    def __init__(
        self,
        supervisor: Supervisor,
        intake: Intake,
        checks: Checks,
        tracing: Tracing | None,
        request: Request,
    ) -> None:
        self._supervisor = supervisor
        self._intake = intake
        self._checks = checks
        self._findings = Findings()
        self._tracing = tracing
        self._request = request
        given = request.headers.get("x-request-id", "")
        self._id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._body: GenerateBody | None = None
        self._job: Job | None = None
        self._started_ns = time.time_ns()

    async def answer(self) -> Response:
        try:
            self._body = await self._intake.generate_body(self._request)
            if self._checks.guarded and self._body.stream:
                # A preview is not checked: at first it is noise, and later as bad as the picture.
                self._body = self._body.model_copy(update={"partial_images": 0})
            self._job = self._supervisor.submit(self._body, self._id)
            return await (self._stream(self._job) if self._body.stream else self._whole(self._job))
        except errors.ApiError as error:
            self._record(error.code, error.status, error.param)
            return JSONResponse(error.body(), error.status, {**self._headers(), **error.headers()})
        except (CallerLeftError, ClientDisconnect):
            self._record(CLIENT_DISCONNECTED, CLIENT_CLOSED_REQUEST)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:
            self._record("cancelled", CLIENT_CLOSED_REQUEST)
            raise

    async def _whole(self, job: Job) -> Response:
        """All pictures in one reply. Raises ApiError, CallerLeftError."""
        async with self._watched(job) as leaving:
            ends: set[asyncio.Future[Any]] = {job.result, leaving}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not job.result.done():
                raise CallerLeftError
            outcome = job.result.result()
        await self._look_at(job, *outcome.images)
        content = json.dumps(_reply(job, outcome)).encode()
        self._record("ok", 200)
        return Response(content, media_type="application/json", headers=self._headers())

    async def _stream(self, job: Job) -> Response:
        """A reply that begins with the first event. Raises ApiError and CallerLeftError where there is none."""
        async with contextlib.AsyncExitStack() as stack:
            leaving = await stack.enter_async_context(self._watched(job))
            first = await self._next_event(job, leaving)
            return EventStream(self._parts(job, first, leaving, stack.pop_all()), self._headers())
        raise AssertionError("an exit stack of contexts that swallow nothing")

    async def _parts(
        self,
        job: Job,
        first: stream.Event | None,
        leaving: asyncio.Future[None],
        watch: contextlib.AsyncExitStack,
    ) -> AsyncGenerator[bytes, None]:
        """The parts of a stream that has begun: what goes wrong now is told in it."""
        ending: tuple[str, int, str | None] = CLIENT_DISCONNECTED, CLIENT_CLOSED_REQUEST, None
        async with watch:
            try:
                async for part in stream.parts(job, first, partial(self._next_event, job, leaving)):
                    yield part
                ending = "ok", 200, None
            except errors.ApiError as error:
                ending = error.code, error.status, error.param
                yield stream.error_event(error)
            except CallerLeftError:
                pass
            finally:
                self._record(*ending)

    async def _next_event(
        self, job: Job, leaving: asyncio.Future[None], seconds: float | None = None
    ) -> stream.Event | None:
        """As ``stream.next_event``, but only what may be shown. Raises ApiError where that is not so."""
        event = await stream.next_event(job, leaving, seconds)
        if event is not None:
            await self._look_at(job, *([event.image] if isinstance(event, Picture) else []))
        return event

    async def _look_at(self, job: Job, *images: bytes) -> None:
        """Raises ApiError where what was drawn may not be sent (any more)."""
        try:
            await self._checks.look(job.model.name, job.body.prompt, images, job.body.score, self._findings)
        except errors.ApiError:
            if not job.result.done():
                self._supervisor.cancel(job, UNSAFE)
            raise
        if job.model.entry.suspended:  # after the last picture was drawn, and before it is sent
            raise errors.model_suspended(job.model.name)

    @contextlib.asynccontextmanager
    async def _watched(self, job: Job) -> AsyncIterator[asyncio.Future[None]]:
        """A future that is done once the caller left. A job that has no result by the end is cancelled."""
        leaving = asyncio.create_task(self._left())
        try:
            yield leaving
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
            "x-imagefleet-ready-seconds": f"{self._supervisor.ready_seconds():.3f}",
            "x-imagefleet-room-seconds": f"{self._supervisor.room_seconds():.3f}",
            "x-imagefleet-models": self._supervisor.held(),
        }
        model = self._supervisor.known_model(self._body.model) if self._body else None
        if model is not None:
            headers["x-imagefleet-model"] = model.name
            if model.known_rate is not None:
                headers["x-imagefleet-rate"] = f"{model.known_rate:.6g}"
        if self._job is not None:
            headers["x-imagefleet-seed"] = str(self._job.drawings[0].seed)
            if self._job.resumed_steps:
                headers["x-imagefleet-resumed-steps"] = str(self._job.resumed_steps)
            headers["x-imagefleet-queue-seconds"] = f"{self._job.queue_seconds(time.monotonic()):.3f}"
        run_seconds = _run_seconds(self._job)
        if run_seconds is not None:
            headers["x-imagefleet-run-seconds"] = f"{run_seconds:.6f}"
        return headers | self._findings.headers()

    def _record(self, code: str, status: int, param: str | None = None) -> None:
        """Count, log and trace the end of the request."""
        model = self._supervisor.known_model(self._body.model) if self._body else None
        name = model.name if model else None
        self._supervisor.metrics.answered(name or "", code)
        outcome, run_seconds = _outcome(self._job), _run_seconds(self._job)
        ended_ns = time.time_ns()
        log(
            "request",
            request_id=self._id,
            code=code,
            status=status,
            param=param,
            model=name,
            unsafe=self._findings.unsafe or None,
            **(_drawing_fields(self._job.drawings) if self._job else {}),
            seconds=round((ended_ns - self._started_ns) / 1e9, 3),
            run_seconds=None if run_seconds is None else round(run_seconds, 3),
        )
        if self._tracing is not None:
            answered = spans.Answered(self._id, name, code, status, self._started_ns, ended_ns)
            self._tracing.send(
                spans.of_request(answered, self._job, outcome, time.monotonic()), self._request.headers
            )


def _outcome(job: Job | None) -> Outcome | None:
    """What was drawn; None where nothing was (yet)."""
    if job is None or not job.result.done() or job.result.cancelled() or job.result.exception():
        return None
    return job.result.result()


def _run_seconds(job: Job | None) -> float | None:
    """Seconds of the device, those of a request that failed included; None where nothing was drawn."""
    outcome = _outcome(job)
    if outcome is not None:
        return outcome.run_seconds
    return job.run_seconds or None if job is not None else None


def _drawing_fields(drawings: tuple[Draw, ...]) -> dict[str, Any]:
    """What a log line says of a drawing: never its prompt or its pictures."""
    drawing = drawings[0]
    return {
        "mode": drawing.mode,
        "seed": drawing.seed,
        "size": f"{drawing.width}x{drawing.height}",
        "steps": drawing.steps,
        "images": len(drawings),
    }


def _reply(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The body that the gateway hands on as it is: the OpenAI images reply, and each picture's seed."""
    drawing = job.drawings[0]
    reply = {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": drawing.output_format,
        "quality": job.body.quality,
        "size": f"{drawing.width}x{drawing.height}",
        "model": job.model.name,
        "data": [
            _picture(image, each.seed, job.body)
            for image, each in zip(outcome.images, job.drawings, strict=True)
        ],
    }
    return {name: value for name, value in reply.items() if value is not None}


def _picture(image: bytes, seed: int, body: GenerateBody) -> dict[str, Any]:
    text = base64.b64encode(image).decode()
    if body.response_format == "url":
        return {"url": f"data:image/{body.output_format};base64,{text}", "seed": seed}
    return {"b64_json": text, "seed": seed}

"""The worker's HTTP face."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.auth import GATEWAY, OPERATOR, Authenticator
from imagefleet_runtime.worker.checks import Checks
from imagefleet_runtime.worker.generation import Generation
from imagefleet_runtime.worker.intake import MAX_POLICY_BYTES, Intake, read_body
from imagefleet_runtime.worker.nvml import Nvml
from imagefleet_runtime.worker.policy import Policy
from imagefleet_runtime.worker.schema import parse
from imagefleet_runtime.worker.supervisor import Supervisor
from imagefleet_runtime.worker.threads import in_thread
from imagefleet_runtime.worker.tracing import Tracing


def create_app(
    supervisor: Supervisor,
    authenticator: Authenticator,
    nvml: Nvml,
    checks: Checks,
    tracing: Tracing | None = None,
) -> Starlette:
    """``tracing``: None where no traces are sent."""
    intake = Intake()

    async def worker(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), OPERATOR, GATEWAY)
        return JSONResponse(supervisor.state())

    async def put_models(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), OPERATOR)
        supervisor.apply(parse(Policy, await read_body(request, MAX_POLICY_BYTES)))
        return JSONResponse(supervisor.state())

    async def interrupt(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), OPERATOR)
        supervisor.interrupt()
        return JSONResponse(supervisor.state())

    async def generate(request: Request) -> Response:
        authenticator.check(request.headers.get("authorization"), GATEWAY)
        return await Generation(supervisor, intake, checks, tracing, request).answer()

    routes = [
        Route("/v1/worker", worker, methods=["GET"]),
        Route("/v1/worker/models", put_models, methods=["PUT"]),
        Route("/v1/worker/interrupt", interrupt, methods=["POST"]),
        Route("/v1/generate", generate, methods=["POST"]),
        *_health_routes(supervisor, nvml),
    ]
    handlers = {
        errors.ApiError: _answer_error,
        HTTPException: _answer_http_error,
        Exception: _answer_fault,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


def _health_routes(supervisor: Supervisor, nvml: Nvml) -> list[Route]:
    async def livez(_request: Request) -> Response:
        return _health(None if supervisor.alive else "the importer or a loop of the supervisor has ended")

    async def readyz(_request: Request) -> Response:
        if not supervisor.ready:
            return _health("draining" if supervisor.draining else "importing torch and diffusers")
        # In a thread: a device that is falling off its bus may hold up whoever asks.
        return _health(await in_thread(nvml.fault))

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(supervisor.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]


def _health(why_not: str | None) -> Response:
    return PlainTextResponse("ok" if why_not is None else why_not, 200 if why_not is None else 503)


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

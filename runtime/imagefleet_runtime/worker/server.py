"""``imagefleet-worker serve``: the HTTP server, and an end that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial

import uvicorn

from imagefleet_runtime.worker import spans
from imagefleet_runtime.worker.app import create_app
from imagefleet_runtime.worker.auth import Authenticator
from imagefleet_runtime.worker.checks import Checks, Hooks
from imagefleet_runtime.worker.importer import Importer, ImporterError
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.nvml import Nvml
from imagefleet_runtime.worker.settings import Settings
from imagefleet_runtime.worker.supervisor import Supervisor
from imagefleet_runtime.worker.tracing import Tracing, start_tracing


class _Server(uvicorn.Server):
    """uvicorn stops listening on the first signal; here the drain decides when."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings, authenticator: Authenticator, hooks: Hooks, importer: Importer) -> int:
    """Serve until SIGTERM or SIGINT. The exit code: 0 after a drain, 1 where the importer failed."""
    return uvicorn_loop().run(_serve(settings, authenticator, hooks, importer))


def uvicorn_loop() -> asyncio.Runner:
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(settings: Settings, authenticator: Authenticator, hooks: Hooks, importer: Importer) -> int:
    nvml, tracing = Nvml(), start_tracing(os.environ, settings)
    supervisor = Supervisor(settings, importer, nvml, partial(_trace_load, tracing))
    config = uvicorn.Config(
        create_app(supervisor, authenticator, nvml, Checks(hooks, supervisor.metrics), tracing),
        host=settings.host,
        port=settings.port,
        access_log=False,  # one line per request is written by the app itself, without addresses and paths
        log_level="warning",
        timeout_keep_alive=75,  # longer than callers keep idle connections, so that they are the ones to close
        lifespan="off",
        timeout_graceful_shutdown=10,  # for replies that are being sent; a body that never ends is not waited for
    )
    server = _Server(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    code = await _until_stopped(supervisor, serving, stop)
    # uvicorn finishes the replies that are being sent, then returns.
    server.should_exit = True
    await serving
    await supervisor.stop()
    if tracing is not None:
        await tracing.close()
    log("stopped", code=code)
    return code


def _trace_load(tracing: Tracing | None, model: Model) -> None:
    span = spans.of_load(model)
    if tracing is not None and span is not None:
        tracing.send(span)


async def _until_stopped(supervisor: Supervisor, serving: asyncio.Task[None], stop: asyncio.Event) -> int:
    starting = asyncio.create_task(supervisor.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    elif error := starting.exception():
        if not isinstance(error, ImporterError):
            raise error
        log("importer_failed", message=str(error))
        return 1
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        return 1  # uvicorn ended by itself: the port is taken, for one
    await supervisor.drain()
    return 0

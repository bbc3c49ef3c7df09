"""`imagefleet-gateway`: settings, watches, server, signals."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator

import uvicorn
import uvloop
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from .app import App
from .service import Gateway
from .settings import Settings, SettingsError, read_settings
from .tokens import KeyFileError, Tokens, read_key
from .watch import SOURCES, Watch

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server without its own signal handlers: it stops when the gateway has drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def load_client() -> ApiClient:
    """A client for the API server: in the cluster by the pod's service account, else by KUBECONFIG."""
    configuration = Configuration()
    if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(client_configuration=configuration)
    return ApiClient(configuration)


def write_line(line: bytes) -> None:
    """One line to standard output in one system call. A reader that is gone must not fail requests."""
    with contextlib.suppress(OSError):
        os.write(1, line)


async def drain(server: uvicorn.Server, app: App, settings: Settings) -> None:
    """Say that no more requests should come, let those that are here finish, then stop the server.

    The port stays open for `lame_duck_seconds` at least, because endpoints are withdrawn with a lag.
    """
    app.draining = True
    _log.info("draining: %d requests are running or held", app.running)
    await asyncio.sleep(min(settings.lame_duck_seconds, settings.grace_seconds))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, settings.grace_seconds - settings.lame_duck_seconds)):
            await app.idle.wait()
    server.should_exit = True


def server_config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        proxy_headers=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        date_header=False,
        # Longer than the idle time of common load balancers (60 s), which must be the ones to close.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        backlog=4096,
    )


def server(config: uvicorn.Config) -> uvicorn.Server:
    return _Server(config)


async def serve(settings: Settings) -> None:
    """Run a gateway until SIGTERM or SIGINT, then drain it."""
    tokens = Tokens(read_key(settings.caller_key_file))
    gateway = Gateway(settings, tokens, write_line)
    http = server(server_config(gateway.app, settings))
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    client = await load_client()
    async with client, asyncio.TaskGroup() as tasks:
        watches = [
            Watch(source, client, gateway.fleet, gateway.metrics.watch_restarted) for source in SOURCES
        ]
        running = [tasks.create_task(watch.run()) for watch in watches]
        for source, watch in zip(SOURCES, watches, strict=True):
            gateway.metrics.watch_age(source.kind, watch.age)
        serving = tasks.create_task(http.serve())
        await stopping.wait()
        await drain(http, gateway.app, settings)
        await serving
        for task in running:
            task.cancel()
        gateway.close()


def main() -> None:
    """Entry point; exits with a message where the settings cannot be used."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        settings = read_settings()
        logging.getLogger().setLevel(settings.log_level.upper())
        uvloop.run(serve(settings))
    except (SettingsError, KeyFileError, config.ConfigException) as error:
        sys.exit(f"imagefleet-gateway: {error}")

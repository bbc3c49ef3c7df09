"""Values and fakes for the gateway's tests. Defaults are ready to serve; a test names what it is about."""

import asyncio
import base64
import functools
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from imagefleet_runtime.gateway.fleet import ObjectKey, View
from imagefleet_runtime.gateway.main import server, server_config
from imagefleet_runtime.gateway.resources import ModelView, PoolModel, PoolView, Worker
from imagefleet_runtime.gateway.service import Gateway
from imagefleet_runtime.gateway.settings import Settings, read_settings
from imagefleet_runtime.gateway.tokens import Tokens
from PIL import Image

PROMPT = {"prompt": "a red circle", "model": "shapes"}
KEY = Ed25519PrivateKey.generate()


@functools.cache
def encoded(form: str, size: tuple[int, int], **options: Any) -> bytes:
    """A grey picture as Pillow writes it; `form` is PNG, JPEG, WEBP or GIF."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "grey").save(buffer, form, **options)
    return buffer.getvalue()


def data_url(form: str, size: tuple[int, int]) -> str:
    return f"data:image/{form.lower()};base64,{base64.b64encode(encoded(form, size)).decode()}"


def make_worker(pod: str = "w1", **overrides: Any) -> Worker:
    fields: dict[str, Any] = {
        "uid": f"uid-{pod}",
        "namespace": "art",
        "pool": "thumbs",
        "pod": pod,
        "host": "127.0.0.1",
        "port": 8000,
        "placement": (("shapes-1", True),),
    }
    return Worker(**fields | overrides)


def make_model(name: str = "shapes-1", **overrides: Any) -> ModelView:
    fields: dict[str, Any] = {
        "namespace": "art",
        "name": name,
        "steps": 20,
        "guidance_scale": 5.0,
        "size": (512, 512),
        "max_megapixels": 1.1,
        "max_steps": 50,
        "max_images": 4,
        "capabilities": None,
        "adapters": (),
        "license": "Apache-2.0",
        "stalled": None,
        "rate": 0.01,
        "load_seconds": 12.0,
    }
    return ModelView(**fields | overrides)


def make_pool(
    name: str = "thumbs",
    offers: dict[str, dict[str, float]] | None = None,
    entry: dict[str, Any] | None = None,
    **overrides: Any,
) -> PoolView:
    """A pool; `offers` maps each name that callers use to its traffic, `entry` has further fields of each."""
    offers = offers or {"shapes": {"shapes-1": 100.0}}
    models = tuple(
        PoolModel(offer, tuple(traffic.items()), **entry or {}) for offer, traffic in offers.items()
    )
    fields: dict[str, Any] = {"namespace": "art", "name": name, "created": 1_700_000_000, "models": models}
    return PoolView(**fields | overrides)


def suspended(**fields: Any) -> PoolView:
    """A pool of which all is suspended; `fields` are further ones of its entry."""
    return make_pool(entry={"suspended": True, **fields})


BOTH = (make_model(), make_model("shapes-2"))
"""The ImageModels shapes-1 and shapes-2."""


def make_settings(**env: str) -> Settings:
    return read_settings(
        {
            "IMAGEFLEET_CALLER_KEY_FILE": "unused",
            "IMAGEFLEET_HOST": "127.0.0.1",
            "IMAGEFLEET_PORT": "0",
            "IMAGEFLEET_POD": "gateway-1",
            "IMAGEFLEET_LAME_DUCK_SECONDS": "0",
        }
        | env
    )


def image_reply(seed: int = 1) -> dict[str, Any]:
    return {
        "created": 1_763_800_000,
        "background": "opaque",
        "output_format": "png",
        "quality": "medium",
        "size": "512x512",
        "model": "shapes-1",
        "data": [{"b64_json": "aW1hZ2U=", "seed": seed}],
    }


def error_reply(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": f"worker says {code}", "type": "server_error", "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


async def draws(body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response(image_reply(body["seed"]), headers={"x-imagefleet-work-seconds": "0"})


def refuses(status: int, code: str, **headers: str) -> Answer:
    async def answer(_: dict[str, Any]) -> web.StreamResponse:
        return error_reply(status, code, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


class Events(web.StreamResponse):
    """A stream whose events a script sends."""

    def __init__(self, script: Callable[["Events"], Awaitable[None]]) -> None:
        super().__init__(headers={"content-type": "text/event-stream", "x-imagefleet-work-seconds": "30"})
        self._script = script

    async def write_eof(self, data: bytes = b"") -> None:
        await self._script(self)
        await super().write_eof(data)

    def break_off(self) -> None:
        assert self._payload_writer is not None
        assert self._payload_writer.transport is not None
        self._payload_writer.transport.abort()


def event(name: str, kind: str = "image_generation", **data: Any) -> bytes:
    """An event as workers write it."""
    full = f"{kind}.{name}"
    fields = {"type": full, "b64_json": "aW1hZ2U=", "created_at": 1_763_800_000, "size": "512x512"} | data
    return f"event: {full}\ndata: {json.dumps(fields)}\n\n".encode()


PARTIAL = event("partial_image", partial_image_index=0)
COMPLETED = event("completed", seed=1)


def streams(script: Callable[[Events], Awaitable[None]]) -> Answer:
    async def answer(_: dict[str, Any]) -> web.StreamResponse:
        return Events(script)

    return answer


def sends(*events: bytes) -> Answer:
    async def script(stream: Events) -> None:
        for sent in events:
            await stream.write(sent)

    return streams(script)


class Busy:
    """A worker's answer that never comes; knows when it was asked for and when it was called off."""

    def __init__(self) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, _: dict[str, Any]) -> web.StreamResponse:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


@dataclass
class FakeWorker:
    """A worker that answers as told."""

    name: str = "w1"
    answer: Answer = draws
    state: dict[str, Any] | Callable[[], dict[str, Any]] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    callers: set[Any] = field(default_factory=set)
    """Addresses of the connections on which requests came."""
    port: int = 0

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.callers.add(request.transport.get_extra_info("peername"))
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await self.answer(body)

    async def _state(self, _: web.Request) -> web.StreamResponse:
        resident = {"model": "shapes-1", "state": "Resident"}
        state = self.state() if callable(self.state) else self.state
        return web.json_response(state or {"workSeconds": 0.0, "models": [resident]})

    def view(self, **overrides: Any) -> Worker:
        return make_worker(self.name, **{"port": self.port} | overrides)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeWorker"]:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/generate", self._generate)
        app.router.add_get("/v1/worker", self._state)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


def views(*items: View) -> dict[ObjectKey, View]:
    return {(item.namespace, item.pod if isinstance(item, Worker) else item.name): item for item in items}


async def until(check: Callable[[], object]) -> None:
    """Let the event loop turn until the check holds; the test's own timeout bounds it."""
    while not check():  # noqa: ASYNC110  # what is waited for has no event of its own
        await asyncio.sleep(0.001)


class Harness:
    """A whole gateway on a loopback port, its fleet set by hand."""

    def __init__(self, settings: Settings, key: Ed25519PrivateKey = KEY) -> None:
        self.log: list[dict[str, Any]] = []
        self.gateway = Gateway(settings, Tokens(key), lambda line: self.log.append(json.loads(line)))
        self.server = server(server_config(self.gateway.app, settings))
        self.url = ""
        self.session: aiohttp.ClientSession

    def set_fleet(
        self,
        *workers: Worker,
        pools: tuple[PoolView, ...] | None = None,
        models: tuple[ModelView, ...] | None = None,
    ) -> None:
        fleet = self.gateway.fleet
        fleet.replace("pods", views(*workers))
        fleet.replace("inferencepools", views(*((make_pool(),) if pools is None else pools)))
        fleet.replace("imagemodels", views(*((make_model(),) if models is None else models)))

    async def post(self, body: Any, **kwargs: Any) -> tuple[int, dict[str, str], Any]:
        """Status, headers (lower case) and decoded body of an image request."""
        async with self.session.post(f"{self.url}/v1/images/generations", json=body, **kwargs) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, await response.json()

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(f"{self.url}{path}") as response:
            return response.status, await response.text()

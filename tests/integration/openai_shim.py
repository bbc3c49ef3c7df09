"""The least that turns OpenAI's images API into a worker's calls: paths, names of fields, a token. No gateway."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

Json = dict[str, Any]
# Fields of a form that are no text for a worker.
NOT_TEXT = ("stream", "partial_images", "n", "steps")


async def worker_body(request: Request) -> bytes:
    """The body of `POST /v1/generate` for a call of `/v1/images/generations` (JSON) or `/v1/images/edits` (form)."""
    if request.url.path.endswith("/generations"):
        given: Json = await request.json()
    else:
        given = await _form_fields(request)
    size = given.pop("size", None)
    if size is not None:
        given["width"], given["height"] = map(int, size.split("x"))
    return json.dumps(given).encode()


async def _form_fields(request: Request) -> Json:
    form = await request.form()
    fields: Json = {}
    for name, value in form.items():
        if isinstance(value, str):
            fields[name] = json.loads(value) if name in NOT_TEXT else value
        else:
            fields[name.removesuffix("[]")] = base64.b64encode(await value.read()).decode()
    return fields


def shim(client: Any, token: Callable[[], Json]) -> Any:
    """An ASGI app over ``client``, an httpx client of a worker."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        outgoing = client.build_request(
            "POST", "/v1/generate", headers=token(), content=await worker_body(request)
        )
        answer = await client.send(outgoing, stream=True)
        kind = answer.headers["content-type"]
        response: Response
        if kind.startswith("text/event-stream"):
            response = StreamingResponse(answer.aiter_raw(), media_type="text/event-stream")
        else:
            response = Response(await answer.aread(), answer.status_code, media_type=kind)
        await response(scope, receive, send)
        await answer.aclose()

    return app

import json
from typing import Any

import httpx
from imagefleet_runtime.worker.app import create_app


class Nobody:
    """An authenticator that fails as no program should."""

    def check(self, *_arguments: Any) -> str:
        raise ZeroDivisionError("a secret")


async def test_a_fault_of_the_worker_is_a_typed_error_without_its_details() -> None:
    app = create_app(supervisor=None, authenticator=Nobody())  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        answer = await client.get("/v1/worker")
    assert (answer.status_code, json.loads(answer.text)["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text

"""What the tests ask of the image API, through the client that applications use."""

from __future__ import annotations

import io
from typing import Any

import openai
from PIL import Image

from tests.pictures import opened
from tests.plugins.cluster import Kubectl

TINY_MODEL = """
apiVersion: imagefleet.dev/v1alpha1
kind: ImageModel
metadata: {name: MODEL}
spec:
  source: {uri: "file:///models/MODEL"}
  defaults: {steps: 4, size: 64x64}
"""


def tiny_model(name: str) -> str:
    """A manifest of one of the demo models, `tiny-1` or `tiny-2`."""
    return TINY_MODEL.replace("MODEL", name)


def client_of(gateway: str) -> openai.OpenAI:
    """One that does not try again by itself: what fails, fails the test."""
    return openai.OpenAI(base_url=f"{gateway}/v1", api_key="unused", max_retries=0, timeout=120)


PROMPT = "a red circle on white"


def draw(gateway: str, model: str, *, prompt: str = PROMPT, seed: int = 1, **more: Any) -> Image.Image:
    """One picture; its PNG is decoded in full."""
    answer = client_of(gateway).images.generate(
        model=model, prompt=prompt, size="64x64", extra_body={"seed": seed, **more}
    )
    assert answer.data
    return opened(answer.data[0].b64_json)


def as_png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def wait_ready(kubectl: Kubectl, pool: str, timeout: str = "240s") -> None:
    """Until `kubectl wait` says that the pool is Ready."""
    kubectl("wait", "--for=condition=Ready", f"inferencepools.imagefleet.dev/{pool}", f"--timeout={timeout}")


def conditions(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions of a resource by type."""
    return {one["type"]: one for one in resource.get("status", {}).get("conditions", [])}

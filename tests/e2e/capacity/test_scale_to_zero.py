"""No workers while nobody asks, and back with the first request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai

from tests.e2e.capacity.pools import Pool
from tests.e2e.images import PROMPT

SOON = {"scaleDown": {"stabilizationWindowSeconds": 2}}
CALLERS = 4


def test_a_burst_to_a_pool_without_workers_is_answered_and_the_workers_go_again(pictures: Pool) -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 2, "zeroAfterSeconds": 3, "behavior": SOON}
    pictures.apply("scale-to-zero", scaling=scaling)
    pictures.wait(lambda: pictures.condition("Ready") == ("True", "ScaledToZero"))
    pictures.wait(lambda: pictures.pods() == [])

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = [callers.submit(draw, pictures, seed) for seed in range(CALLERS)]
        pictures.wait(lambda: 1 <= len(pictures.pods()) <= 2)
        pictures.wait(lambda: all(answer.done() for answer in answers), 180)
    assert all(answer.result() for answer in answers), "nobody is sent away for good while a worker starts"
    pictures.wait(lambda: pictures.scaling().get("startSeconds"))

    pictures.wait(lambda: pictures.condition("Ready") == ("True", "ScaledToZero"))
    pictures.wait(lambda: pictures.pods() == [])
    reasons = [decision["reason"] for decision in pictures.scaling()["decisions"]]
    assert reasons[-1] == "Unused"
    assert reasons[0] in ("Demand", "Backlog", "Bounded")


def draw(pictures: Pool, seed: int) -> bool:
    """One picture, asked for as applications do: a request that waited for too long is sent again when it is told
    to."""
    gateways = pictures.fleet.gateways()
    client = openai.OpenAI(base_url=f"{gateways[seed % len(gateways)]}/v1", api_key="unused", max_retries=8)
    name = f"{pictures.kubectl.namespace}/shapes"
    answer = client.images.generate(model=name, prompt=PROMPT, size="64x64", extra_body={"seed": seed})
    return bool(answer.data and answer.data[0].b64_json)

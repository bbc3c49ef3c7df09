"""Callers that keep asking both gateways for pictures, and what each of them got."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType

import openai

from tests.cluster.cluster import PATIENCE_SECONDS
from tests.e2e.images import client_of

PROMPTS = tuple(
    f"a {colour} {shape} on {background}"
    for colour, shape, background in itertools.product(
        ("blue", "green", "yellow", "purple"), ("circle", "square", "triangle", "star"), ("white", "gray")
    )
)


@dataclass(frozen=True)
class Outcome:
    """One request: when it was sent and when it ended (seconds of the epoch), its status (0: no answer), its error's
    code, who drew it."""

    sent: float
    at: float
    status: int
    code: str
    model: str


class Callers:
    """Several callers, each with one request at a time, from `with` to its end. Nothing is tried again.

    Request n asks for prompt n with seed n, so that a model draws the same pictures in each run: of shapes-1 and
    shapes-2 none fails the demo's safety check. Of several models it asks for the n-th, over and over.
    """

    def __init__(self, gateways: list[str], *models: str, callers: int = 4, steps: int = 6) -> None:
        self._gateways = gateways
        self._models = models
        self._steps = steps
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(callers)]
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> Counter[tuple[int, str, str]]:
        """What went wrong, how often: status, code, model."""
        return Counter((one.status, one.code, one.model) for one in self.outcomes if one.status != 200)

    def served_by(self, since: float = 0.0) -> Counter[str]:
        """Pictures by the model that drew them, of what was sent since then."""
        return Counter(one.model for one in self.outcomes if one.status == 200 and one.sent >= since)

    def wait_for_more(
        self, requests: int, sent_since: float = 0.0, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Until so many further requests have ended, of those sent since then."""
        known, deadline = len(self.outcomes), time.monotonic() + seconds
        while (ended := sum(one.sent >= sent_since for one in self.outcomes[known:])) < requests:
            assert time.monotonic() < deadline, f"{ended} requests ended, {requests} were awaited"
            time.sleep(0.05)

    def _run(self, caller: int) -> None:
        with client_of(self._gateways[caller % len(self._gateways)]) as client:
            while not self._stop.is_set():
                self.outcomes.append(self._ask(client, next(self._numbers)))

    def _ask(self, client: openai.OpenAI, number: int) -> Outcome:
        sent = time.time()
        try:
            raw = client.images.with_raw_response.generate(
                model=self._models[number % len(self._models)],
                prompt=PROMPTS[number % len(PROMPTS)],
                size="64x64",
                extra_body={"seed": number, "num_inference_steps": self._steps},
            )
        except openai.APIStatusError as error:
            model = error.response.headers.get("x-imagefleet-model", "")
            return Outcome(sent, time.time(), error.status_code, str(error.code or ""), model)
        except openai.APIConnectionError as error:
            return Outcome(sent, time.time(), 0, type(error.__cause__).__name__, "")
        return Outcome(sent, time.time(), 200, "", raw.headers["x-imagefleet-model"])

"""What it costs that requests can be interrupted, and how fast a worker is gone.

    make bench NAME=interruption [MODEL=build/models/shapes-2] [ROUNDS=15]

In one process: pictures whose answers are kept beside pictures whose answers are not, in turn, in CPU time; and how
long one takes to go on from a checkpoint. With workers: seconds from SIGTERM to the end, and of an interactive request
while a long one of class batch runs. Prints JSON lines.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from imagefleet_runtime.worker.checkpoint import LIMIT_BYTES
from imagefleet_runtime.worker.engine.pipeline import Pipeline
from imagefleet_runtime.worker.messages import Draw

from bench._engine_systems import Worker
from bench.report import figure, progress
from tests.integration.engine.drawing import finish, interrupt, load, request
from tests.integration.worker_process import bearer

MODEL = Path(os.environ.get("MODEL", "build/models/shapes-2")).resolve()
ROUNDS = int(os.environ.get("ROUNDS", "15"))
STEPS = 20
BATCH = 8
DONE = 15  # steps before the interruption
LONG_STEPS = 1000  # of a request that runs when the worker is told to end


def cpu_seconds(pipeline: Pipeline, draws: list[Draw]) -> float:
    """Of this process, until all ``draws`` are drawn side by side."""
    started = time.process_time()
    with torch.inference_mode():
        for draw in draws:
            pipeline.start(draw, lambda _index, _pixels: None)
        finish(pipeline)
    return time.process_time() - started


def recording(pipeline: Pipeline) -> None:
    for batch in (1, BATCH):
        plain = [request(id=number, steps=STEPS, seed=number) for number in range(batch)]
        kept = [replace(draw, record_bytes=LIMIT_BYTES) for draw in plain]
        seconds: dict[str, list[float]] = defaultdict(list)
        for _round in range(ROUNDS):
            seconds["kept"].append(cpu_seconds(pipeline, kept))
            seconds["plain"].append(cpu_seconds(pipeline, plain))
        ours, without = (statistics.median(seconds[name]) / batch for name in ("kept", "plain"))
        figure(f"recording_cpu_per_picture_batch_{batch}", ours, "s", without)


def going_on(pipeline: Pipeline) -> None:
    """CPU time until a picture is where it was, beside that of drawing it until there."""
    draw = request(steps=STEPS)
    resumed = interrupt(pipeline, draw, DONE)
    assert resumed.resume is not None
    figure(f"checkpoint_bytes_{DONE}_steps", len(resumed.resume), "bytes")
    seconds: dict[str, list[float]] = defaultdict(list)
    for _round in range(ROUNDS):
        for name, each in (("again", resumed), ("first", draw)):
            started = time.process_time()
            with torch.inference_mode():
                pipeline.start(each, lambda _index, _pixels: None)
                for _ in range(0 if name == "again" else DONE):
                    pipeline.hub.round()
            seconds[name].append(time.process_time() - started)
            pipeline.hub.cancel(each.id)
            finish(pipeline)
    again, first = (statistics.median(seconds[name]) for name in ("again", "first"))
    figure(f"catching_up_cpu_{DONE}_steps", again, "s", first)


@contextmanager
def held(scratch: Path, **settings: str) -> Iterator[Worker]:
    """A worker that holds the model."""
    worker = Worker(scratch, 1, **settings)
    try:
        worker.until_ready()
        limits = {"maxSteps": LONG_STEPS, "maxMegapixels": 1.1}
        worker.allow("model", MODEL, pinned=True, limits=limits)
        worker.until_resident("model")
        yield worker
    finally:
        worker.end()


class Long(threading.Thread):
    """A long request that runs; ``status`` and ``answer`` once it has ended."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.status = 0
        self.answer: dict[str, Any] = {}

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        body = {"model": "model", "prompt": "a red circle", "steps": LONG_STEPS, "priority": "batch"}
        connection.request("POST", "/v1/generate", json.dumps(body), bearer("gateway"))
        with suppress(http.client.RemoteDisconnected):  # the worker was ended before
            reply = connection.getresponse()
            self.status, self.answer = reply.status, json.loads(reply.read())


def until_running(worker: Worker) -> None:
    while worker.model("model")["running"] == 0:
        time.sleep(0.01)
    time.sleep(1.0)  # some steps


def seconds_to_end(worker: Worker) -> tuple[float, Long]:
    """From SIGTERM, with a request that has just begun."""
    long = Long(worker.port)
    long.start()
    until_running(worker)
    started = time.perf_counter()
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait()
    seconds = time.perf_counter() - started
    long.join()
    return seconds, long


def ends(scratch: Path) -> None:
    found = {}
    for interrupt_by in ("checkpoint", "finish"):
        with held(scratch / interrupt_by, IMAGEFLEET_INTERRUPT=interrupt_by) as worker:
            seconds, long = seconds_to_end(worker)
        progress(f"{interrupt_by}: {seconds:.2f} s, answered {long.status}")
        found[interrupt_by] = seconds
        if interrupt_by == "checkpoint":
            size = len(base64.b64decode(long.answer["checkpoint"]))
            progress(f"{long.answer['stepsDone']} steps in {size} bytes")
    figure("sigterm_to_exit", found["checkpoint"], "s", found["finish"])


def interactive(scratch: Path) -> None:
    """Seconds of an interactive request of another size, alone and while one of class batch runs."""
    with held(scratch / "interactive") as worker:
        call = worker.caller("model")
        body = {"prompt": "a blue square", "steps": STEPS, "width": 96, "height": 64}
        seconds: dict[str, list[float]] = defaultdict(list)
        for name in ("alone", "beside"):
            if name == "beside":
                Long(worker.port).start()
                until_running(worker)
            for _round in range(ROUNDS):
                started = time.perf_counter()
                call(worker.connection, body)
                seconds[name].append(time.perf_counter() - started)
        assert worker.model("model")["running"] == 1, "the long request was done before"
    beside, alone = (statistics.median(seconds[name]) for name in ("beside", "alone"))
    figure("interactive_while_batch_runs", beside, "s", alone)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipeline = load(MODEL)
    cpu_seconds(pipeline, [request(steps=STEPS)])  # what is set up lazily
    recording(pipeline)
    going_on(pipeline)
    with tempfile.TemporaryDirectory(prefix="imagefleet-interruption-") as name:
        ends(Path(name))
        interactive(Path(name))


if __name__ == "__main__":
    main()

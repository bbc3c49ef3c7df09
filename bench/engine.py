"""What the worker adds to diffusers, what batching gains, and how fast models load.

    make bench NAME=engine [MODEL=build/models/shapes-2] [THREADS=2] [SECONDS=15] [ROUNDS=3]

All servers hold the same model and may use the same number of threads; runs are interleaved. The baselines run with
torch's own settings, which are the fastest ones for them. Prints JSON lines.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import _engine_systems as systems
from bench.report import figure, progress

MODEL = Path(os.environ.get("MODEL", "build/models/shapes-2")).resolve()
THREADS = int(os.environ.get("THREADS", len(os.sched_getaffinity(0))))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "15"))
SINGLE_REQUESTS = 40
SINGLE_STEPS = 20
CALLERS = 16
STEPS = (8, 12, 20, 28)
COPY_BYTES = 16 * 1024 * 1024


class Bare:
    """The bare script (see _engine_bare), asked line by line."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench._engine_bare", str(folder), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def draw(self, seed: int, steps: int) -> float:
        """Seconds that one picture took."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(systems.request(seed, steps)) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def single_request(ours: systems.Server, folder: Path) -> None:
    """One request at a time over HTTP, beside the same picture in a script; in turn."""
    bare = Bare(folder)
    connection = ours.connect()
    seconds: dict[str, list[float]] = defaultdict(list)
    try:
        for seed in range(SINGLE_REQUESTS + 5):
            body = systems.request(seed, SINGLE_STEPS)
            served = seconds_of(lambda body=body: ours.call(connection, body))  # type: ignore[misc]
            drawn = bare.draw(seed, SINGLE_STEPS)
            if seed >= 5:  # the first ones warm up
                seconds["ours"].append(served)
                seconds["bare"].append(drawn)
    finally:
        bare.end()
    figure(
        "single_request_overhead", statistics.median(seconds["ours"]), "s", statistics.median(seconds["bare"])
    )


def throughput(ours: systems.Server, folder: Path) -> None:
    rates: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        servers = [ours]
        for name in ("fastapi", "litserve"):
            progress(f"starting {name}")
            servers.append(stack.enter_context(systems.baseline(name, folder, THREADS)))
        for number in range(ROUNDS):
            for server in servers:
                rate = systems.images_per_second(server, CALLERS, SECONDS, STEPS)
                rates[server.name].append(rate)
                progress(f"round {number + 1}: {server.name}: {rate:.2f} images/s")
    middle = {name: statistics.median(values) for name, values in rates.items()}
    figure("throughput_vs_fastapi_diffusers", middle["ours"], "images/s", middle["fastapi"])
    figure("throughput_vs_litserve", middle["ours"], "images/s", middle["litserve"])


def starts(folder: Path, scratch: Path) -> None:
    """From nothing to a resident model beside a bare import and load; and a load in a worker that runs."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        started = time.perf_counter()
        worker = systems.Worker(scratch / f"start-{number}", THREADS)
        try:
            worker.until_ready()
            worker.allow("first", folder, pinned=True)
            worker.until_resident("first")
            seconds["cold"].append(time.perf_counter() - started)
            seconds["warm"].append(_first_picture(worker, folder))
        finally:
            worker.end()
        started = time.perf_counter()
        bare = Bare(folder)
        seconds["bare cold"].append(time.perf_counter() - started)
        bare.draw(0, SINGLE_STEPS)
        seconds["bare picture"].append(time.perf_counter() - started)
        bare.end()
        progress(f"start {number + 1}: cold {seconds['cold'][-1]:.2f} s, warm {seconds['warm'][-1]:.2f} s")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    figure("cold_start", middle["cold"], "s", middle["bare cold"])
    figure("warm_start", middle["warm"], "s", middle["bare picture"])


def _first_picture(worker: systems.Worker, folder: Path) -> float:
    """Seconds from the request for a model that is allowed and not resident to its picture."""
    worker.allow("second", folder, pinned=False)
    call = worker.caller("second")
    return seconds_of(lambda: call(worker.connection, systems.request(0, SINGLE_STEPS)))


def load_bandwidth(scratch: Path) -> None:
    """Bytes per second of the weights' stage for a larger model, beside copying its files out of the page cache."""
    from bench._engine_large import write

    folder = scratch / "large"
    progress("writing a larger model with random weights")
    write(folder)
    files = list(folder.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        rates["copy"].append(size / seconds_of(lambda: _copy(files)))
        worker = systems.Worker(scratch / f"large-{number}", THREADS)
        try:
            worker.until_ready()
            worker.allow("large", folder, pinned=True)
            stages = worker.until_resident("large")["loadStages"]
            rates["load"].append(size / stages["weights"])
            progress(f"load {number + 1}: {stages}")
        finally:
            worker.end()
    figure("load_bandwidth", statistics.median(rates["load"]), "bytes/s", statistics.median(rates["copy"]))


def _copy(files: list[Path]) -> None:
    buffer = bytearray(COPY_BYTES)
    for file in files:
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="imagefleet-bench-") as name:
        scratch = Path(name)
        worker = systems.Worker(scratch / "worker", THREADS)
        try:
            worker.until_ready()
            worker.allow("model", MODEL, pinned=True)
            progress(f"the worker holds {MODEL.name}: {worker.until_resident('model')['sizes']}")
            ours = systems.Server("ours", worker.port, worker.caller("model"))
            single_request(ours, MODEL)
            throughput(ours, MODEL)
        finally:
            worker.end()
        starts(MODEL, scratch)
        load_bandwidth(scratch)


if __name__ == "__main__":
    main()

"""How fast a pool gets workers, on the whole fleet on a local cluster with two gateways (`ROUNDS=` sets how often).

`patch_seconds` is from the first request to a pool without workers until its Deployment asks for one; baseline: the 2 s
that follow from gateways being asked every second. `zero_seconds` is from there to that request's picture: a worker's
start and its first load. `warm_seconds` is the same where one warm worker waits and none takes requests; baseline: the
2 s that are promised. Of each the median and the longest. The tiny model and pictures of few steps, so that what is
measured is the fleet's doing and not the drawing.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from bench._fleet import NAMESPACE, fleet
from bench.report import figure, progress
from tests.e2e.capacity.pools import NAME, Json, Pool
from tests.e2e.images import draw, tiny_model

ROUNDS = int(os.environ.get("ROUNDS", "5"))
MODEL = "tiny-1"
PROMISED_SECONDS = 2.0


def main() -> None:
    """Measure and print all."""
    with _pool() as pool:
        _apply(pool, warm=0)
        patches, pictures = zip(*(_from_zero(pool, n) for n in range(ROUNDS)), strict=True)
        _apply(pool, warm=1)
        warm = [_from_warm(pool, n) for n in range(ROUNDS)]
    _report("patch_seconds", patches, PROMISED_SECONDS)
    _report("zero_seconds", pictures)
    _report("warm_seconds", warm, PROMISED_SECONDS)


def _report(name: str, seconds: Sequence[float], promised: float | None = None) -> None:
    figure(name, median(seconds), "s", promised)
    figure(f"{name}_longest", max(seconds), "s", promised)


@contextmanager
def _pool() -> Iterator[Pool]:
    with fleet() as (installed, kubectl):
        kubectl.apply(tiny_model(MODEL))
        yield Pool(installed, kubectl)


def _apply(pool: Pool, *, warm: int) -> None:
    """A pool of at most one worker, which goes as soon as it may, and so many warm ones in its place."""
    spec: Json = {
        "scaling": {
            "minReplicas": 0,
            "maxReplicas": 1,
            "zeroAfterSeconds": 1,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
        "warmPool": {"replicas": warm},
        "worker": {"accelerator": {"count": 0}},
        "models": [{"name": "shapes", "model": MODEL}],
    }
    manifest = {"apiVersion": "imagefleet.dev/v1alpha1", "kind": "InferencePool", "metadata": {"name": NAME}}
    pool.apply_manifest(manifest | {"spec": spec})


def _from_zero(pool: Pool, number: int) -> tuple[float, float]:
    """Seconds until the Deployment asks for a worker, and until the picture is there."""
    pool.wait(lambda: pool.condition("Ready") == ("True", "ScaledToZero") and not pool.pods(), 120)
    asked: list[float] = []
    with _watched(pool, asked):
        began = time.monotonic()
        _draw(pool, number)
        ended = time.monotonic()
    patched = next(at for at in asked if at >= began)
    progress(
        f"from zero, {number + 1}: asked for after {patched - began:.2f} s, drawn after {ended - began:.2f} s"
    )
    return patched - began, ended - began


@contextmanager
def _watched(pool: Pool, asked: list[float]) -> Iterator[None]:
    """Note when the Deployment asks for a worker."""
    command = [
        *("kubectl", "--namespace", NAMESPACE, "get", f"deployment/{NAME}-workers", "--watch"),
        *("--output", 'jsonpath={.spec.replicas}{"\\n"}'),
    ]
    with subprocess.Popen(
        command, env=pool.fleet.cluster.env(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as watch:
        assert watch.stdout is not None
        lines = watch.stdout

        def note() -> None:
            asked.extend(time.monotonic() for line in lines if line.strip() == "1")

        thread = threading.Thread(target=note)
        thread.start()
        time.sleep(1)  # the watch stands
        try:
            yield
        finally:
            time.sleep(0.5)
            watch.terminate()
            thread.join()


def _from_warm(pool: Pool, number: int) -> float:
    """Seconds from a request to its picture where one worker is warm and none takes requests."""
    pool.wait(lambda: pool.status().get("warm") == {"replicas": 1, "ready": 1} and not pool.serving(), 120)
    began = time.monotonic()
    _draw(pool, number)
    seconds = time.monotonic() - began
    progress(f"from warm, {number + 1}: drawn after {seconds:.2f} s")
    return seconds


def _draw(pool: Pool, number: int) -> None:
    gateways = pool.fleet.gateways()
    draw(gateways[number % len(gateways)], f"{NAMESPACE}/shapes", num_inference_steps=1)


if __name__ == "__main__":
    main()

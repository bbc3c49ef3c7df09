"""A large fleet on the local control plane: 1,000 nodes and 5,000 workers of 300 pools, which kwok pretends to run.

One operator looks after them, with the chart's defaults. One process answers for all workers (`bench/_scale_workers`).
What is measured at rest for REST_SECONDS, and once more while `kubectl scale` gives each pool a tenth of workers more:

    ready_seconds           until all pools are Ready, from the first that is made, a few at a time; and after they were
                            scaled, all at once
    pass_p50, pass_p99      of one pass over a pool or model: seconds that it took
    lag_p50, lag_p99        of the operator's queues: how long a key that was due waited until it was worked on
    oldest_p50, oldest_p99  the age of the oldest key that was due, as of each second
    polls                   questions to workers a second; baseline at rest: each of them every 15 s
    api_requests, writes    requests to the API server a second
    cpu                     of the operator, in cores
    memory                  of the operator

Arguments by environment: NODES (1000), WORKERS (5000), POOLS (300), REST_SECONDS (60), OPERATOR_LOG (a file).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagefleet_operator.plan.pool import POLL_SETTLED

from bench import _kwok
from bench._scale_load import Load
from bench._scale_metrics import Scrape, quantile
from bench.report import figure, progress
from tests.cluster.cluster import REPOSITORY, Cluster
from tests.cluster.controlplane import free_ports
from tests.cluster.node.config import NodeSpec
from tests.cluster.outside import OutsideOperator, make_account, write_caller_key, write_kubeconfig

NODES = int(os.environ.get("NODES", "1000"))
REST_SECONDS = float(os.environ.get("REST_SECONDS", "60"))
SETTLE_SECONDS = 30.0
"""After all pools are Ready: every worker has been asked once more, and numbers that move seldom were written."""
TICKS = os.sysconf("SC_CLK_TCK")
NO_PODS = NodeSpec("full", taints=[{"key": "bench", "value": "no-pods", "effect": "NoSchedule"}])


@dataclass(frozen=True)
class Bench:
    """What runs."""

    operator: OutsideOperator
    load: Load
    calls: str
    """Where the workers tell how often they were asked."""

    def snapshot(self) -> Snapshot:
        """All counters as of now."""
        stat = Path(f"/proc/{self.operator.pid}/stat").read_text().rpartition(")")[2].split()
        return Snapshot(
            time.monotonic(),
            Scrape(_read(f"{self.operator.address}/metrics")),
            json.loads(_read(self.calls)),
            (int(stat[11]) + int(stat[12])) / TICKS,
        )


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment."""

    at: float
    metrics: Scrape
    calls: dict[str, int]
    cpu_seconds: float


class Ages:
    """The age of the oldest key that is due, each second while the block runs; and the most memory."""

    def __init__(self, operator: OutsideOperator) -> None:
        self._operator = operator
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seconds: list[float] = []
        self.bytes = 0

    def __enter__(self) -> Ages:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(1):
            scrape = Scrape(_read(f"{self._operator.address}/metrics"))
            self.seconds.append(max(scrape.values("imagefleet_queue_oldest_seconds"), default=0.0))
            self.bytes = max(self.bytes, self._operator.resident_bytes())


def main() -> None:
    """Start all of it, and measure."""
    with _running() as bench:
        started = time.monotonic()
        asyncio.run(bench.load.create_pools())
        figure("ready_seconds_first", time.monotonic() - started, "s")
        progress(f"all pools are Ready; settling for {SETTLE_SECONDS:.0f} s")
        time.sleep(SETTLE_SECONDS)
        with Ages(bench.operator) as ages:
            before = bench.snapshot()
            time.sleep(REST_SECONDS)
            report("rest", before, bench.snapshot(), ages, bench.load.workers / POLL_SETTLED)
        with Ages(bench.operator) as ages:
            before = bench.snapshot()
            asyncio.run(bench.load.scale())
            asyncio.run(bench.load.until_ready())
            after = bench.snapshot()
            figure("ready_seconds_scaled", after.at - before.at, "s")
            report("scaling", before, after, ages)


def report(name: str, before: Snapshot, after: Snapshot, ages: Ages, polls: float | None = None) -> None:
    """The figures between two snapshots."""
    seconds = after.at - before.at
    moved = after.metrics.since(before.metrics)
    for label, metric in (("pass", "imagefleet_reconcile_seconds"), ("lag", "imagefleet_queue_lag_seconds")):
        buckets = moved.buckets(metric)
        for share in (50, 99):
            figure(f"{name}_{label}_p{share}", quantile(buckets, share / 100), "s")
    figure(f"{name}_passes", moved.total("imagefleet_reconcile_seconds_count") / seconds, "1/s")
    figure(f"{name}_oldest_p50", statistics.median(ages.seconds or [0.0]), "s")
    figure(f"{name}_oldest_p99", _high(ages.seconds), "s")
    asked = sum(after.calls.values()) - sum(before.calls.values())
    figure(f"{name}_polls", asked / seconds, "1/s", polls)
    figure(
        f"{name}_api_requests", moved.total("imagefleet_operator_api_request_seconds_count") / seconds, "1/s"
    )
    figure(f"{name}_writes", moved.total("imagefleet_operator_writes_total") / seconds, "1/s")
    figure(f"{name}_cpu", (after.cpu_seconds - before.cpu_seconds) / seconds, "cores")
    figure(f"{name}_memory", ages.bytes / 2**20, "MiB")


def _high(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] if values else 0.0


@contextmanager
def _running() -> Iterator[Bench]:
    _raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="imagefleet-bench-") as folder:
        cluster = Cluster.start(Path(folder, "cluster"), nodes=[NO_PODS], owned=True)
        try:
            cluster.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
            kubeconfig = write_kubeconfig(cluster, Path(folder, "operator.kubeconfig"), make_account(cluster))
            key = write_caller_key(Path(folder, "caller.pem"))
            log = Path(os.environ.get("OPERATOR_LOG", Path(folder, "operator.log")))
            with (
                _kwok.running(cluster, Path(folder)),
                _workers() as calls,
                OutsideOperator(cluster, kubeconfig, key, log) as operator,
            ):
                load = Load(cluster.kubeconfig, operator)
                progress(f"making {NODES} nodes and {load.models} models")
                _kwok.add_nodes(cluster, NODES, gpus=8)
                asyncio.run(load.create_models())
                yield Bench(operator, load, calls)
        finally:
            cluster.stop()


@contextmanager
def _workers() -> Iterator[str]:
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, "-m", "bench._scale_workers", str(port)])
    address = f"http://127.0.0.1:{port}/"
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError("nobody may listen on port 8000: end the other local clusters")
            try:
                _read(address)
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def _raise_file_limit() -> None:
    """The operator keeps a connection to each worker for some seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # our own address
        text: str = answer.read().decode()
    return text


if __name__ == "__main__":
    main()

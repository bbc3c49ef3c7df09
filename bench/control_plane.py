"""500 pools with one model each on the real API server, beside a bare script that applies the same children.

Both runs get a fresh cluster whose node takes no pods, so that nothing but the control plane works; they alternate.
In both, the clock runs from the first pool that is created until all children exist, and the pools are created by the
same loader. The bare script applies the children with as many requests at a time as the operator has queue workers,
through the operator's own client, and does nothing else.

    children_time           seconds until all children exist; baseline: the bare script
    writes_per_pool         the operator's writes per pool, Events included; baseline: its children and one status
    memory_per_1000_pools   what the operator's resident memory grew by for the pools and their models, per 1,000
    writes_at_rest          the operator's writes in a minute without changes, renewals of its Lease left out

Arguments by environment: POOLS (500), ROUNDS (2), REST_SECONDS (60).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.control_plane_load import Loader
from bench.report import figure, progress
from tests.cluster.audit import AuditLog
from tests.cluster.cluster import REPOSITORY, Cluster
from tests.cluster.node.config import NodeSpec
from tests.cluster.outside import USER, OutsideOperator, make_account, write_caller_key, write_kubeconfig

POOLS = int(os.environ.get("POOLS", "500"))
ROUNDS = int(os.environ.get("ROUNDS", "2"))
REST_SECONDS = float(os.environ.get("REST_SECONDS", "60"))
CHILDREN_AND_STATUS = 5
QUIET_SECONDS = 5.0
NODE = NodeSpec("full", taints=[{"key": "bench", "value": "no-pods", "effect": "NoSchedule"}])


@dataclass(frozen=True)
class Run:
    """What one run of the operator showed."""

    seconds: float
    writes_per_pool: float
    bytes_empty: int
    bytes_full: int
    writes_at_rest: int


def main() -> None:
    bare, ours = [], []
    for number in range(1, ROUNDS + 1):
        bare.append(_bare_script())
        progress(f"round {number}/{ROUNDS}: bare script {bare[-1]:.1f} s")
        ours.append(_operator(rest=number == ROUNDS))
        run = ours[-1]
        progress(
            f"round {number}/{ROUNDS}: operator {run.seconds:.1f} s, {run.writes_per_pool:.2f} writes a pool"
        )
    last = ours[-1]
    figure("children_time", statistics.median(run.seconds for run in ours), "s", statistics.median(bare))
    figure("writes_per_pool", max(run.writes_per_pool for run in ours), "writes", CHILDREN_AND_STATUS)
    figure("memory_per_1000_pools", (last.bytes_full - last.bytes_empty) / POOLS * 1000 / 2**20, "MiB")
    figure("operator_memory", last.bytes_full / 2**20, "MiB")
    figure("writes_at_rest", last.writes_at_rest, "writes/min")


@contextmanager
def _fresh_cluster() -> Iterator[tuple[Cluster, Path]]:
    with tempfile.TemporaryDirectory(prefix="imagefleet-bench-") as folder:
        cluster = Cluster.start(Path(folder, "cluster"), nodes=[NODE], owned=True)
        try:
            cluster.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
            yield cluster, Path(folder)
        finally:
            cluster.stop()


def _bare_script() -> float:
    with _fresh_cluster() as (cluster, _):
        return asyncio.run(Loader(cluster.kubeconfig, POOLS).apply_children())


def _operator(*, rest: bool) -> Run:
    with _fresh_cluster() as (cluster, folder):
        kubeconfig = write_kubeconfig(cluster, folder / "operator.kubeconfig", make_account(cluster))
        audit = AuditLog(cluster.layout.audit_log)
        key = write_caller_key(folder / "caller.pem")
        with OutsideOperator(cluster, kubeconfig, key, folder / "operator.log") as operator:
            _quiet(audit)
            empty = operator.resident_bytes()
            loader = Loader(cluster.kubeconfig, POOLS)
            asyncio.run(loader.create_models())
            _quiet(audit)
            mark = audit.mark()
            seconds = asyncio.run(loader.create_pools())
            _quiet(audit)
            writes = _writes(audit, mark)
            full = operator.resident_bytes()
            at_rest = _rest(audit) if rest else 0
        return Run(seconds, writes / POOLS, empty, full, at_rest)


def _rest(audit: AuditLog) -> int:
    progress(f"resting for {REST_SECONDS:.0f} s")
    mark = audit.mark()
    time.sleep(REST_SECONDS)
    return round(_writes(audit, mark) * 60 / REST_SECONDS)


def _quiet(audit: AuditLog) -> None:
    """Wait until the operator has not written for some seconds."""
    mark = audit.mark()
    while True:
        time.sleep(QUIET_SECONDS)
        if _writes(audit, mark) == 0:
            return
        mark = audit.mark()


def _writes(audit: AuditLog, since: int) -> int:
    events = audit.events(since=since, user=USER, writes=True)
    return sum(1 for event in events if event.resource != "leases")


if __name__ == "__main__":
    main()

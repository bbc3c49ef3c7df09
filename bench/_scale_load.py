"""The load of the benchmark of a large fleet: nodes, models, and pools of three sizes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagefleet_operator.client import KubeClient, load_configuration
from imagefleet_operator.kinds import MODEL, POOL, Kind

from bench._kwok import LABEL
from bench.report import progress
from tests.cluster.outside import OutsideOperator

WORKERS = int(os.environ.get("WORKERS", "5000"))
POOLS = int(os.environ.get("POOLS", "300"))
AT_A_TIME = 24
WORKERS_AT_A_TIME = 250
"""Pools are made a few at a time: here two cores do what a cluster's control plane has its own machines for, and with
all at once kwok's nodes cannot renew their Leases in time."""
NAMESPACE = "default"
LIMIT_SECONDS = 1800.0
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Sort:
    """Pools that are alike: their share of all pools and of all workers, and how many models each of them names."""

    pools: float
    workers: float
    models: int


SORTS = (Sort(0.8, 0.4, 1), Sort(0.17, 0.35, 5), Sort(0.03, 0.25, 20))
"""Worked example, 300 pools and 5,000 workers: 240 of 8 workers and one model, 51 of 34 and five, 9 of 139 and 20."""


class Load:
    """What is asked of the cluster."""

    def __init__(self, kubeconfig: Path, operator: OutsideOperator) -> None:
        self._kubeconfig = kubeconfig
        self._operator = operator
        self._replicas = {pool["metadata"]["name"]: pool["spec"]["replicas"] for pool in pools()}
        self.models = len(_model_names())

    @property
    def workers(self) -> int:
        """All pools'."""
        return sum(self._replicas.values())

    async def create_models(self) -> None:
        """Returns when every model is Ready."""
        async with self._client() as client:
            await _each(_model_names(), lambda name: client.create(MODEL, NAMESPACE, _model(name)))
            await self._until(client, MODEL, self.models)

    async def create_pools(self) -> None:
        """A few at a time; returns when every pool is Ready."""
        made = 0
        async with self._client() as client:
            for some in _portions(pools()):
                await _each(some, lambda pool: client.create(POOL, NAMESPACE, pool))
                made += len(some)
                await self._until(client, POOL, made)

    async def scale(self) -> None:
        """Each pool gets a tenth of workers more, at least one, by its scale subresource."""
        self._replicas = {name: count + max(1, count // 10) for name, count in self._replicas.items()}
        async with self._client() as client:
            await _each(
                self._replicas.items(),
                lambda pool: client.merge(POOL, NAMESPACE, pool[0], {"spec": {"replicas": pool[1]}}),
            )

    async def until_ready(self) -> None:
        """Until every pool is Ready with as many workers as were asked for last."""
        async with self._client() as client:
            await self._until(client, POOL, len(self._replicas))

    async def _until(self, client: KubeClient, kind: Kind, wanted: int) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            found = [obj async for obj in client.list(kind)]
            ready = sum(self._is_ready(obj) for obj in found)
            progress(f"{ready} of {wanted} {kind.plural} are Ready")
            if ready >= wanted:
                return
            if self._operator.dead:
                raise RuntimeError("the operator has ended: OPERATOR_LOG=FILE keeps what it says")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{ready} of {wanted} {kind.plural} after {LIMIT_SECONDS:.0f} s")
            await asyncio.sleep(LOOK_SECONDS)

    def _is_ready(self, obj: dict[str, Any]) -> bool:
        status = obj.get("status", {})
        current = status.get("observedGeneration") == obj["metadata"]["generation"]
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
        replicas = self._replicas.get(obj["metadata"]["name"])
        return current and ready and status.get("readyReplicas") in (None, replicas)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[KubeClient]:
        os.environ["KUBECONFIG"] = str(self._kubeconfig)
        client = KubeClient(await load_configuration())
        try:
            yield client
        finally:
            await client.close()


def _portions(made: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Pools of WORKERS_AT_A_TIME workers together, or one that has more."""
    some: list[dict[str, Any]] = []
    for pool in made:
        if some and sum(p["spec"]["replicas"] for p in (*some, pool)) > WORKERS_AT_A_TIME:
            yield some
            some = []
        some.append(pool)
    yield some


async def _each(items: Iterable[Any], act: Callable[[Any], Awaitable[Any]]) -> None:
    limit = asyncio.Semaphore(AT_A_TIME)

    async def one(item: Any) -> None:
        async with limit:
            await act(item)

    await asyncio.gather(*(one(item) for item in items))


def pools() -> list[dict[str, Any]]:
    """All of them, the same at each call."""
    made: list[dict[str, Any]] = []
    for sort in SORTS:
        count = round(POOLS * sort.pools)
        replicas = round(WORKERS * sort.workers / count)
        made += [_pool(len(made) + number, replicas, sort.models) for number in range(count)]
    return made


def _pool(number: int, replicas: int, models: int) -> dict[str, Any]:
    names = [_model_name(number + other) for other in range(models)]
    spec = {
        "replicas": replicas,
        "models": [{"name": name, "model": name} for name in names],
        "worker": {"podTemplate": {"spec": {"nodeSelector": {LABEL: "true"}}}},
    }
    metadata = {"name": f"p-{number}"}
    return {"apiVersion": POOL.api_version, "kind": POOL.kind, "metadata": metadata, "spec": spec}


def _model_name(number: int) -> str:
    """Pools share their models."""
    return f"m-{number % max(POOLS * 2 // 3, max(sort.models for sort in SORTS))}"


def _model_names() -> list[str]:
    return sorted({entry["model"] for pool in pools() for entry in pool["spec"]["models"]})


def _model(name: str) -> dict[str, Any]:
    spec = {"source": {"uri": "file:///models/tiny-1"}, "memory": "3Gi"}
    return {"apiVersion": MODEL.api_version, "kind": MODEL.kind, "metadata": {"name": name}, "spec": spec}

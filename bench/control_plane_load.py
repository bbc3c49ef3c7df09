"""The load of the control plane's benchmark: models and pools, and the bare script that applies pools' children."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from imagefleet_operator.client import KubeClient, load_configuration, ssl_context
from imagefleet_operator.kinds import CHILDREN, JOB, MODEL, POOL, Kind
from imagefleet_operator.plan.workers import WorkersSpec
from imagefleet_operator.render import POOL_KINDS, pool_children

AT_A_TIME = 24  # as many as the operator has queue workers by default
NAMESPACE = "default"
CHILD_KINDS = tuple(CHILDREN[kind] for kind in POOL_KINDS)
# How often the children are counted; it bounds the error of the times.
COUNT_SECONDS = 0.1
LIMIT_SECONDS = 300.0


class Counter:
    """Counts objects without reading them: a list of one says how many more there are."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def counts(self, kinds: tuple[Kind, ...]) -> dict[str, int]:
        """How many objects of each kind the namespace holds."""
        return {kind.kind: await self._count(kind) for kind in kinds}

    async def _count(self, kind: Kind) -> int:
        async with self._session.get(kind.path(NAMESPACE), params={"limit": "1"}) as answer:
            answer.raise_for_status()
            page = await answer.json()
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


class Loader:
    """Makes `pools` models and pools named p-0, p-1, ... in the default namespace."""

    def __init__(self, kubeconfig: Path, pools: int) -> None:
        self._kubeconfig = kubeconfig
        self._pools = pools

    async def create_models(self) -> None:
        """Create the models, and wait until each has its verification Job."""
        async with self._clients() as (client, counter):
            await self._each(lambda number: client.create(MODEL, NAMESPACE, _model(number)))
            await self._until(counter, (JOB,), {})

    async def create_pools(self) -> float:
        """Create the pools; return the seconds until somebody has made all their children."""
        async with self._clients() as (client, counter):
            before = await counter.counts(CHILD_KINDS)
            started = time.monotonic()
            await self._each(lambda number: client.create(POOL, NAMESPACE, _pool(number)))
            await self._until(counter, CHILD_KINDS, before)
            return time.monotonic() - started

    async def apply_children(self) -> float:
        """Create the pools and apply their children ourselves; return the seconds until all exist."""
        async with self._clients() as (client, counter):
            before = await counter.counts(CHILD_KINDS)
            started = time.monotonic()
            await self._each(lambda number: self._pool_with_children(client, number))
            await self._until(counter, CHILD_KINDS, before)
            return time.monotonic() - started

    async def _pool_with_children(self, client: KubeClient, number: int) -> None:
        pool = await client.create(POOL, NAMESPACE, _pool(number))
        for kind, child in pool_children(
            _spec(pool["metadata"]["name"], pool["metadata"]["uid"]), "key"
        ).items():
            await client.apply(CHILDREN[kind], child)

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[KubeClient, Counter]]:
        os.environ["KUBECONFIG"] = str(self._kubeconfig)
        configuration = await load_configuration()
        client = KubeClient(configuration)
        async with aiohttp.ClientSession(
            configuration.host, connector=aiohttp.TCPConnector(ssl=ssl_context(configuration))
        ) as session:
            yield client, Counter(session)
        await client.close()

    async def _each(self, act: Callable[[int], Awaitable[Any]]) -> None:
        limit = asyncio.Semaphore(AT_A_TIME)

        async def one(number: int) -> None:
            async with limit:
                await act(number)

        await asyncio.gather(*(one(number) for number in range(self._pools)))

    async def _until(self, counter: Counter, kinds: tuple[Kind, ...], before: dict[str, int]) -> None:
        wanted = self._pools * len(kinds)
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            counts = await counter.counts(kinds)
            made = sum(counts[kind] - before.get(kind, 0) for kind in counts)
            if made >= wanted:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{made} of {wanted} objects after {LIMIT_SECONDS:.0f} s")
            await asyncio.sleep(COUNT_SECONDS)


def _model(number: int) -> dict[str, Any]:
    spec = {"source": {"uri": "file:///models/tiny-1"}}
    return {
        "apiVersion": MODEL.api_version,
        "kind": MODEL.kind,
        "metadata": {"name": f"m-{number}"},
        "spec": spec,
    }


def _pool(number: int) -> dict[str, Any]:
    spec = {"models": [{"name": f"m-{number}", "model": f"m-{number}"}], "replicas": 1}
    return {
        "apiVersion": POOL.api_version,
        "kind": POOL.kind,
        "metadata": {"name": f"p-{number}"},
        "spec": spec,
    }


def _spec(name: str, uid: str) -> WorkersSpec:
    return WorkersSpec(
        namespace=NAMESPACE,
        pool=name,
        uid=uid,
        image="imagefleet-worker",
        replicas=1,
        accelerator_resource="nvidia.com/gpu",
        accelerator_count=1,
        resources={},
        max_request_seconds=300,
        claims=(),
        pod_template={},
    )

"""The watch of nodes, for taints that say that one is about to go; only while a pool has spot workers."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from imagefleet_operator.client import ApiError, KubeClient
from imagefleet_operator.kinds import NODE, POOL
from imagefleet_operator.plan.types import Json, PoolSpec
from imagefleet_operator.store.store import Key, Store

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
"""Between two looks whether any pool has spot workers. Clouds give two minutes' notice, GKE half a minute."""
AGAIN_SECONDS = 5.0
WATCH_SECONDS = 300
GONE = 410


class NodeWatch:
    """``wake`` is called with the pools that have workers on a node whose taints have changed."""

    def __init__(self, store: Store, client: KubeClient, wake: Callable[[Iterable[Key]], None]) -> None:
        self._store = store
        self._client = client
        self._wake = wake

    async def run(self) -> None:
        """Never returns."""
        while True:
            if not self._wanted():
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                await self._follow(await self._list())
            except Exception as error:
                # Whatever it is, an interruption that nobody sees costs a request, an operator that stops much more.
                logger.warning("nodes are not watched, again in %g s: %r", AGAIN_SECONDS, error)
                await asyncio.sleep(AGAIN_SECONDS)

    def _wanted(self) -> bool:
        specs = (pool.spec for pool in self._store.parents(POOL.kind))
        return any(isinstance(spec, PoolSpec) and spec.spot is not None for spec in specs)

    async def _list(self) -> str:
        """All nodes as they are; the version to watch from."""
        found, version = await self._client.snapshot(NODE)
        self._store.nodes.keep({node["metadata"]["name"] for node in found})
        for node in found:
            self._put(node)
        return version

    async def _follow(self, version: str) -> None:
        """Take in changes until the watch ends, as it does every few minutes, or nobody wants it any more."""
        async for event in self._client.watch(NODE, version, WATCH_SECONDS):
            if event["type"] == "ERROR":
                _raise(event["object"])
            if event["type"] == "DELETED":
                self._store.nodes.remove(event["object"]["metadata"]["name"])
            elif event["type"] != "BOOKMARK":
                self._put(event["object"])
            if not self._wanted():
                return

    def _put(self, node: Json) -> None:
        if self._store.nodes.put(node):
            self._wake(self._store.pools_on_node(node["metadata"]["name"]))


def _raise(status: Any) -> None:
    """Raises ApiError. A version that is too old is no failure: the nodes are listed again."""
    raise ApiError(status.get("code", GONE), status.get("reason", ""), status.get("message", ""))

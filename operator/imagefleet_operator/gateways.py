"""Gateways: finding them, and asking what they counted.

They run in a queue of their own: one key finds the pods, each gateway has a key by its name, so that one that hangs
holds up nothing but itself.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imagefleet_operator import metrics
from imagefleet_operator.client import KubeClient
from imagefleet_operator.kinds import POD, Kind
from imagefleet_operator.plan.rollout_types import NameFigures
from imagefleet_operator.plan.spend_types import Counted
from imagefleet_operator.plan.types import Name
from imagefleet_operator.pod_http import CallError, PodClient
from imagefleet_operator.store.counts import Counts, read_counts
from imagefleet_operator.store.demand import Demands
from imagefleet_operator.store.figures import Entry, InvalidFiguresError, read_figures
from imagefleet_operator.store.ledger import Ledger
from imagefleet_operator.store.loads import Loads, Route, Said, read_loads
from imagefleet_operator.store.store import Key

logger = logging.getLogger(__name__)

PORT = 8080
FIND = ""
"""The key under which pods are looked for; no pod has that name."""
FIND_SECONDS = 5.0
ASK_WATCHED = 1.0
"""Seconds between two questions while a pool waits for figures."""
ASK_SELDOM = 15.0
GET_SECONDS = 3.0
FIGURES_BYTES = 8_000_000
"""Of an answer: ten thousand entries of pools, some 700 bytes each."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A gateway's pod."""

    uid: str
    ip: str
    ready: bool
    ending: bool
    """It is no longer ready then, but finishes its requests, which count."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a gateway counted: of each entry of a pool, and of each model."""

    figures: dict[Entry, NameFigures]
    loads: dict[Route, Said]
    counts: tuple[str, Mapping[Name, Counted]] = ("", MappingProxyType({}))
    """When it started, and what it counted for budgets."""


class GatewayClient:
    """Questions to gateways."""

    def __init__(self) -> None:
        self._pods = PodClient(connections=32)

    async def close(self) -> None:
        """Close all connections."""
        await self._pods.close()

    async def ask(self, ip: str) -> Told:
        """What a gateway counted. Raises CallError."""
        path = "/v1/gateway"
        answer = await self._pods.call("GET", (ip, PORT), path, seconds=GET_SECONDS, most_bytes=FIGURES_BYTES)
        try:
            return Told(read_figures(answer), read_loads(answer), read_counts(answer))
        except InvalidFiguresError as error:
            raise CallError(f"GET {path}: {type(error).__name__}", str(error)) from error


class Gateways:
    """What all gateways counted, brought to ledger, demands and loads. ``add`` puts a key into the queue; ``wake`` is
    called with the keys of the watched pools that news concern, and of those that are to be told of demand."""

    def __init__(
        self,
        ledger: Ledger,
        demands: Demands,
        loads: Loads,
        counts: Counts,
        client: KubeClient,
        gateways: GatewayClient,
        *,
        namespace: str,
        selector: str,
        add: Callable[[str, float], None],
        wake: Callable[[Iterable[Key]], None],
    ) -> None:
        self._ledger = ledger
        self._demands = demands
        self._loads = loads
        self._counts = counts
        self._client = client
        self._gateways = gateways
        self._namespace = namespace
        self._kind = Kind(POD.kind, POD.group, POD.version, POD.plural, selector)
        self._add = add
        self._wake = wake
        self._pods: dict[str, Pod] = {}
        self._watched: set[Name] = set()
        self._silent: set[str] = set()
        """Uids of those whose silence has been told."""

    def watch(self, pool: Name, wanted: bool) -> None:
        """Whether a pool waits for figures: while any does, all gateways are asked often."""
        idle = not self._watched
        self._watched = self._watched | {pool} if wanted else self._watched - {pool}
        if idle and self._watched:
            for name in self._pods:
                self._add(name, 0.0)

    async def run(self, key: str) -> float | None:
        """One look for pods, or one question to a gateway; the seconds until the next, None for one that has gone.
        Raises ApiError and ApiUnreachableError where pods cannot be listed: the ones that are known stay."""
        if key == FIND:
            await self._find()
            return FIND_SECONDS
        pod = self._pods.get(key)
        if pod is None:
            return None
        if pod.ip and (pod.ready or pod.ending):
            await self._ask(key, pod)
        return ASK_WATCHED if self._watched or pod.ending else ASK_SELDOM

    async def _find(self) -> None:
        found = {
            obj["metadata"]["name"]: _pod(obj) async for obj in self._client.list(self._kind, self._namespace)
        }
        known, self._pods = self._pods, found
        uids = {pod.uid for pod in found.values()}
        for gone in {pod.uid for pod in known.values()} - uids:
            self._ledger.drop(gone)
            self._demands.drop(gone)
            self._loads.drop(gone)
            self._counts.drop(gone)
            self._silent.discard(gone)
        for name, pod in found.items():
            if known.get(name) != pod:
                self._add(name, 0.0)

    async def _ask(self, name: str, pod: Pod) -> None:
        try:
            told = await self._gateways.ask(pod.ip)
        except CallError as error:
            if pod.ending:
                return
            metrics.GATEWAY_FAILURES.inc()
            if pod.uid not in self._silent:
                self._silent.add(pod.uid)
                logger.warning("gateway %s does not tell its figures: %s", name, error)
            return
        if pod.uid in self._silent:
            self._silent.discard(pod.uid)
            logger.info("gateway %s tells its figures again", name)
        if self._pods.get(name) != pod:
            return  # it has gone meanwhile, and its figures with it
        news = self._ledger.put(pod.uid, told.figures) & self._watched
        news |= self._loads.put(pod.uid, told.loads) & self._watched
        news |= self._counts.put(pod.uid, *told.counts) & self._watched
        news |= self._demands.put(pod.uid, told.loads)
        self._wake([("pool", *pool) for pool in sorted(news)])


def _pod(obj: Any) -> Pod:
    metadata, status = obj["metadata"], obj.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    return Pod(metadata["uid"], status.get("podIP") or "", ready, "deletionTimestamp" in metadata)

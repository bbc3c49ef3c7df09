"""Taints of nodes: who watches for them, whom they concern, and how an interruption is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from imagefleet_operator import metrics, nodes
from imagefleet_operator.client import ApiError
from imagefleet_operator.events import EventRecorder
from imagefleet_operator.interruptions import Interruptions
from imagefleet_operator.kinds import POD, POOL, Kind
from imagefleet_operator.nodes import NodeWatch
from imagefleet_operator.plan.cluster_types import Pod
from imagefleet_operator.plan.spot import Interruption
from imagefleet_operator.plan.types import Json
from imagefleet_operator.store.store import Key, Store

from tests.unit.operator.fakes import Api
from tests.unit.operator.make import NOW, pod, pool

SPOT = {"worker": {"spot": {"nodeSelector": {"kind": "spot"}, "interruptionTaints": ["going"]}}}
POOL_KEY: Key = ("pool", "ns", "thumbs")


def node(name: str, *taints: str) -> Json:
    return {"metadata": {"name": name}, "spec": {"taints": [{"key": taint} for taint in taints]}}


class Nodes(Api):
    """An API server with nodes; ``events`` are what each watch tells before it ends."""

    def __init__(self, *found: Json) -> None:
        super().__init__()
        self.found = list(found)
        self.events: list[Json] = []
        self.asked: list[str] = []
        self.quiet = asyncio.Event()

    async def snapshot(self, kind: Kind) -> tuple[Sequence[Json], str]:
        self._check("list", kind)
        self.asked.append("list")
        return self.found, "7"

    async def watch(self, kind: Kind, version: str, seconds: int) -> AsyncIterator[Json]:
        self.asked.append(f"watch {version}")
        while self.events:
            yield self.events.pop(0)
        await self.quiet.wait()
        self.quiet.clear()


class World:
    """A store with a pool of one worker on node-1, and the watch of nodes."""

    def __init__(self, api: Nodes, spec: Json) -> None:
        self.store, self.api, self.woken = Store(), api, list[Key]()
        models = [{"name": "shapes", "model": "shapes-1"}]
        self.store.put(POOL, api.add(POOL, "thumbs", spec={"models": models, "replicas": 1, **spec}))
        labels = {"imagefleet.dev/pool": "thumbs", "imagefleet.dev/capacity": "spot"}
        self.store.put(POD, api.add(POD, "a", metadata={"labels": labels}, spec={"nodeName": "node-1"}))
        self.watch = NodeWatch(self.store, api, self.wake)

    def wake(self, keys: Iterable[Key]) -> None:
        self.woken.extend(keys)

    async def until(self, done: Callable[[], Any]) -> None:
        """Let the watch run until then."""
        task = asyncio.create_task(self.watch.run())
        try:
            async with asyncio.timeout(60):
                while not done():  # noqa: ASYNC110  # what is waited for has no event of its own
                    await asyncio.sleep(0.001)
        finally:
            task.cancel()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(nodes, name, 0.001)


async def test_without_spot_workers_no_node_is_looked_at() -> None:
    world = World(Nodes(node("node-1", "going")), {})
    ended = asyncio.get_running_loop().time() + 0.05
    await world.until(lambda: asyncio.get_running_loop().time() > ended)
    assert world.api.asked == []
    assert world.store.nodes.taints("node-1") == frozenset()


async def test_a_taint_that_is_there_already_wakes_the_pools_that_have_workers_on_the_node() -> None:
    world = World(Nodes(node("node-1", "going"), node("node-2", "going")), SPOT)
    await world.until(lambda: world.api.asked == ["list", "watch 7"])
    assert world.store.nodes.taints("node-1") == {"going"}
    assert world.woken == [POOL_KEY]


async def test_a_taint_that_comes_and_goes_wakes_them_and_other_changes_do_not() -> None:
    world = World(Nodes(node("node-1")), SPOT)
    told = (node("node-1"), node("node-1", "going"), node("node-1", "going"), node("node-1"))
    world.api.events = [{"type": "MODIFIED", "object": each} for each in told]
    await world.until(lambda: not world.api.events)
    assert world.woken == [POOL_KEY] * 2


async def test_a_node_that_has_gone_is_forgotten_also_where_nobody_told_of_it() -> None:
    world = World(Nodes(node("node-1", "going"), node("node-2", "going")), SPOT)
    world.api.events = [{"type": "DELETED", "object": node("node-1")}]
    await world.until(lambda: not world.store.nodes.taints("node-1") and world.store.nodes.taints("node-2"))
    world.api.found = []
    world.api.quiet.set()
    await world.until(lambda: not world.store.nodes.taints("node-2"))


async def test_a_watch_that_fails_or_is_too_old_begins_with_a_list_again() -> None:
    world = World(Nodes(), SPOT)
    world.api.fail["list Node"] = [ApiError(403, "Forbidden", "no"), KeyError("metadata")]
    world.api.events = [{"type": "ERROR", "object": {"code": 410, "message": "too old"}}]
    await world.until(lambda: len(world.api.asked) == 4)
    assert world.api.asked == ["list", "watch 7"] * 2


async def test_an_interruption_is_told_counted_and_acted_on_once() -> None:
    api, ended = Api(), list[Pod]()
    told = Interruptions(EventRecorder(api, "me", lambda: NOW), ended.append)
    before = counted()
    goes = pod(node="node-1")
    for _ in range(2):
        await told.take(pool(), (Interruption(goes, "going"),))
    assert ended == [goes]
    assert counted() - before == 1
    (event,) = (obj for (kind, _, _), obj in api.objects.items() if kind == "Event")
    assert (event["reason"], event["type"]) == ("SpotInterrupted", "Warning")
    assert event["note"] == "Node node-1 is about to go (going): worker a hands over what it draws."


async def test_a_worker_that_was_told_to_end_is_counted_and_left_alone() -> None:
    ended = list[Pod]()
    told = Interruptions(EventRecorder(Api(), "me", lambda: NOW), ended.append)
    before = counted()
    await told.take(pool(), (Interruption(replace(pod("b"), deleting=True), "going"),))
    assert (ended, counted() - before) == ([], 1)


def counted() -> float:
    return float(metrics.INTERRUPTIONS.labels("ns", "thumbs")._value.get())

"""Whole passes over a pool that scales, against an API server in memory."""

from typing import Any

import pytest
from imagefleet_operator.kinds import DEPLOYMENT, MODEL, POD, POOL
from imagefleet_operator.plan.capacity_types import ModelLoad
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.conditions import find
from imagefleet_operator.plan.scaling import DECIDE_SECONDS
from imagefleet_operator.reconcile import SETTLE_SECONDS
from imagefleet_operator.store.loads import Said
from imagefleet_operator.store.store import WorkerState
from imagefleet_operator.sync import list_all

from tests.unit.operator.make import report
from tests.unit.operator.test_reconcile import POOL_KEY, World

ROUTE = ("ns", "thumbs", "shapes-1")
SCALING = {"minReplicas": 0, "maxReplicas": 2, "zeroAfterSeconds": 600}


@pytest.fixture
async def world() -> World:
    world = World()
    spec: dict[str, Any] = {"models": [{"name": "shapes", "model": "shapes-1"}], "scaling": SCALING}
    world.api.add(POOL, "thumbs", spec=spec)
    world.api.add(MODEL, "shapes-1", spec={"source": {"uri": "file:///models/shapes-1"}})
    await list_all(world.store, world.api)
    return world


def replicas(world: World) -> int:
    return int(world.api.objects["Deployment", "ns", "thumbs-workers"]["spec"]["replicas"])


def says(world: World, held: int) -> None:
    world.store.loads.put("gateway", {ROUTE: Said(ModelLoad(held=held, held_seconds=2.0 * held))})


async def test_the_first_request_makes_the_deployment_ask_for_a_worker(world: World) -> None:
    says(world, 0)
    await world.settle(POOL_KEY)
    assert replicas(world) == 0
    assert world.watches[-1] == (("ns", "thumbs"), True)
    says(world, 3)
    assert await world.reconciler.run(POOL_KEY) == SETTLE_SECONDS
    assert replicas(world) >= 1
    await world.settle(POOL_KEY)
    status = world.api.objects["InferencePool", "ns", "thumbs"]["status"]
    assert status["scaling"]["desiredReplicas"] == replicas(world)
    active = find(status, "ScalingActive")
    assert active is not None
    assert (active["status"], active["reason"]) == ("True", "Deciding")


async def test_at_rest_nothing_is_written_however_often_it_decides(world: World) -> None:
    says(world, 0)
    await world.settle(POOL_KEY)
    before = len(world.api.writes)
    for _ in range(50):
        world.now += DECIDE_SECONDS
        await world.settle(POOL_KEY)
    assert world.api.writes[before:] == []


async def test_a_worker_that_leaves_is_called_as_one(world: World) -> None:
    says(world, 1)
    await world.settle(POOL_KEY)
    labels = {"imagefleet.dev/pool": "thumbs"}
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.1"}
    for name in ("a", "b", "c"):
        world.seen(POD, name, metadata={"labels": labels}, status=ready)
        pod = world.store.pod("ns", name)
        assert pod is not None
        world.store.put_worker(pod, WorkerState(pod.uid, report(work_seconds=0.0), heard_at=world.now))
    made = world.api.objects["Deployment", "ns", "thumbs-workers"]
    made["spec"]["replicas"] = 3
    made["status"] = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 3)
    world.store.put(DEPLOYMENT, await world.api.apply(DEPLOYMENT, made, "status"))
    world.calls.clear()
    await world.settle(POOL_KEY)
    assert Role.LEAVING in {call[3] for call in world.calls}

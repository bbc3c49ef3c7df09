"""Whole passes over a pool with a budget: in which order things are written."""

from typing import Any

from imagefleet_operator.kinds import DEPLOYMENT, POD, POOL
from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.sync import list_all

from tests.unit.operator.make import NOW
from tests.unit.operator.test_reconcile import POOL_KEY, World

LABELS = {"imagefleet.dev/pool": "thumbs", "app.kubernetes.io/name": "imagefleet-worker"}
STATUS = "apply status InferencePool thumbs"


async def budgeted(hours: str) -> World:
    """A pool of two whose Deployment has been made and whose status has been written."""
    world = World()
    models = [{"name": "shapes", "model": "shapes-1"}]
    world.api.add(POOL, "thumbs", spec={"models": models, "replicas": 2, "budget": {"gpuHoursPerDay": hours}})
    await list_all(world.store, world.api)
    await world.settle(POOL_KEY)
    return world


def scheduled(world: World, name: str, at: float) -> None:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(at)}
    world.seen(POD, name, metadata={"labels": LABELS}, status={"conditions": [condition]})


def spend(world: World) -> dict[str, Any]:
    return dict(world.api.objects["InferencePool", "ns", "thumbs"]["status"]["spend"])


def replicas(world: World) -> int:
    return int(world.api.objects[DEPLOYMENT.kind, "ns", "thumbs-workers"]["spec"]["replicas"])


async def test_a_pod_is_written_down_before_the_deployment_gives_it_up() -> None:
    world = await budgeted("0.5")  # two workers' last 405 s each are 0.225 hours
    assert replicas(world) == 2
    scheduled(world, "a", NOW - 1_500)
    before = len(world.api.writes)
    await world.reconciler.run(POOL_KEY)
    writes = world.api.writes[before:]
    assert writes[0] == STATUS
    assert spend(world)["workers"] == [{"pod": "a", "state": "Holding"}]
    assert "apply Deployment thumbs-workers" in writes[1:]
    assert replicas(world) == 0


async def test_an_operator_that_was_away_counts_what_it_missed() -> None:
    world = await budgeted("10")
    scheduled(world, "a", NOW)
    await world.settle(POOL_KEY)
    world.api.drop(POD, "a")
    world.now += 30
    world.restart()
    await list_all(world.store, world.api)
    await world.settle(POOL_KEY)
    assert "workers" not in spend(world)
    assert spend(world)["gpuHours"] * 3_600 >= 30 - 1e-3


async def test_at_rest_a_pool_with_a_budget_writes_nothing() -> None:
    world = await budgeted("10")
    world.now += 3_600
    assert await world.settle(POOL_KEY) == []

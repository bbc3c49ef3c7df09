"""Whole passes over a pool and a model, against an API server in memory."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from imagefleet_operator import metrics
from imagefleet_operator.act import Actor
from imagefleet_operator.client import ApiError, ApiUnreachableError
from imagefleet_operator.events import EventRecorder
from imagefleet_operator.interruptions import Interruptions
from imagefleet_operator.kinds import DEPLOYMENT, JOB, MODEL, POD, POOL, SERVICE, Kind
from imagefleet_operator.plan.cluster_types import Pod, Role
from imagefleet_operator.plan.conditions import find, timestamp
from imagefleet_operator.plan.moves import HOLD_SECONDS, Move
from imagefleet_operator.plan.pool import WATCH_SECONDS
from imagefleet_operator.plan.types import Json
from imagefleet_operator.plan.workers import WorkerDefaults
from imagefleet_operator.reconcile import SETTLE_SECONDS, Memory, Reconciler
from imagefleet_operator.store.store import Key, Store
from imagefleet_operator.sync import list_all

from tests.unit.operator.fakes import Api
from tests.unit.operator.make import DIGEST, NOW, VERIFIED

POOL_KEY: Key = ("pool", "ns", "thumbs")
MODEL_KEY: Key = ("model", "ns", "shapes-1")
CHILDREN = ("ServiceAccount", "Service", "PodDisruptionBudget", "Deployment")
MADE = [f"apply {kind} thumbs-workers" for kind in CHILDREN]


@dataclass
class World:
    """An API server with a pool and a model, and an operator that has listed it."""

    api: Api = field(default_factory=Api)
    store: Store = field(default_factory=Store)
    woken: list[Key] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    watches: list[Any] = field(default_factory=list)
    ended: list[Pod] = field(default_factory=list)
    now: float = NOW
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The operator forgets everything."""
        self.store, self.woken = Store(), []
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        events = EventRecorder(self.api, "me", clock)
        self.reconciler = Reconciler(
            self.store,
            Actor(self.store, self.api, events, self.woken.extend),
            workers=WorkerDefaults("worker:1"),
            caller_public_key="PEM",
            call=lambda *call: self.calls.append(call),
            watch=lambda *watch: self.watches.append(watch),
            interruptions=Interruptions(events, self.ended.append),
            clock=clock,
        )

    async def settle(self, key: Key) -> list[str]:
        """Passes until one has nothing more to do soon; all that they wrote."""
        before = len(self.api.writes)
        while await self.reconciler.run(key) == SETTLE_SECONDS:
            pass
        return self.api.writes[before:]

    def gone(self, kind: Kind, name: str) -> None:
        """An object is deleted, and the watch says so."""
        self.store.remove(kind, self.api.drop(kind, name))

    def seen(self, kind: Kind, name: str, **parts: Any) -> None:
        """An object is made anew, and the watch says so."""
        self.store.put(kind, self.api.add(kind, name, **parts))

    def condition(self, kind: Kind, name: str, wanted: str) -> Json | None:
        return find(self.api.objects[kind.kind, "ns", name].get("status", {}), wanted)


@pytest.fixture
async def world() -> World:
    world = World()
    spec = {"models": [{"name": "shapes", "model": "shapes-1"}], "replicas": 1}
    world.api.add(POOL, "thumbs", spec=spec)
    world.api.add(MODEL, "shapes-1", spec={"source": {"uri": "file:///models/shapes-1"}})
    await list_all(world.store, world.api)
    return world


async def test_a_pool_gets_its_children_and_a_moment_later_its_status(world: World) -> None:
    assert await world.reconciler.run(POOL_KEY) == SETTLE_SECONDS
    assert world.api.writes == MADE
    assert await world.reconciler.run(POOL_KEY) is None
    assert world.api.writes[4:] == ["apply status InferencePool thumbs"]
    assert await world.settle(POOL_KEY) == []


async def test_a_restart_reads_each_child_once_and_writes_nothing(world: World) -> None:
    await world.settle(POOL_KEY)
    world.restart()
    await list_all(world.store, world.api)
    world.api.reads.clear()
    assert await world.settle(POOL_KEY) == []
    assert world.api.reads == [f"{kind} thumbs-workers" for kind in CHILDREN]
    await world.settle(POOL_KEY)
    assert len(world.api.reads) == 4


@pytest.mark.parametrize(
    "error", [ApiError(500, "", "etcd"), ApiUnreachableError("down")], ids=["an error", "no answer"]
)
@pytest.mark.parametrize(
    "request_", [*(f"apply {kind}" for kind in CHILDREN), "get Service", "apply status InferencePool"]
)
async def test_whatever_request_fails_the_next_passes_end_where_they_would_have(
    world: World, request_: str, error: Exception
) -> None:
    world.api.fail[request_] = [error]
    with pytest.raises(type(error)):
        await world.settle(POOL_KEY)
    await world.settle(POOL_KEY)
    assert sorted(world.api.writes) == sorted([*MADE, "apply status InferencePool thumbs"])


async def test_a_refused_child_stalls_its_pool_and_is_tried_less_and_less_often(world: World) -> None:
    world.api.fail["apply Deployment"] = [ApiError(422, "Invalid", "restartPolicy: Sometimes")] * 3
    assert [await world.reconciler.run(POOL_KEY) for _ in range(3)] == [5.0, 10.0, 20.0]
    stalled = world.condition(POOL, "thumbs", "Stalled")
    assert stalled is not None
    assert stalled["reason"] == "ChildRejected"
    assert "restartPolicy: Sometimes" in stalled["message"]
    await world.settle(POOL_KEY)
    assert world.condition(POOL, "thumbs", "Stalled") is None


async def test_a_child_that_is_not_ours_is_never_touched(world: World) -> None:
    world.api.add(SERVICE, "thumbs-workers")
    await world.settle(POOL_KEY)
    assert "apply Service thumbs-workers" not in world.api.writes
    stalled = world.condition(POOL, "thumbs", "Stalled")
    assert stalled is not None
    assert stalled["reason"] == "ChildNotOwned"


async def test_a_deleted_child_comes_back(world: World) -> None:
    await world.settle(POOL_KEY)
    world.gone(SERVICE, "thumbs-workers")
    assert await world.settle(POOL_KEY) == ["apply Service thumbs-workers"]


async def test_no_child_is_made_for_a_pool_that_went_unnoticed(world: World) -> None:
    await world.settle(POOL_KEY)
    world.api.drop(POOL, "thumbs")
    world.gone(SERVICE, "thumbs-workers")
    assert await world.settle(POOL_KEY) == []
    assert POOL_KEY in world.woken
    assert world.store.pool("ns", "thumbs") is None


async def test_a_status_is_not_written_to_a_successor_which_is_looked_at_instead(world: World) -> None:
    await world.reconciler.run(POOL_KEY)
    spec = world.api.drop(POOL, "thumbs")["spec"]
    world.api.add(POOL, "thumbs", spec={**spec, "replicas": 2})
    await world.reconciler.run(POOL_KEY)
    assert "status" not in world.api.objects["InferencePool", "ns", "thumbs"]
    assert POOL_KEY in world.woken
    seen = world.store.pool("ns", "thumbs")
    assert seen is not None
    assert seen.spec is not None
    assert seen.spec.replicas == 2


async def test_a_successor_waits_for_the_end_of_its_predecessors_children(world: World) -> None:
    await world.settle(POOL_KEY)
    spec = world.api.objects["InferencePool", "ns", "thumbs"]["spec"]
    world.gone(POOL, "thumbs")
    world.seen(POOL, "thumbs", spec=spec)
    assert await world.settle(POOL_KEY) == ["apply status InferencePool thumbs"]
    reconciling = world.condition(POOL, "thumbs", "Reconciling")
    assert reconciling is not None
    for kind in (SERVICE, DEPLOYMENT):
        world.gone(kind, "thumbs-workers")
    assert await world.settle(POOL_KEY) == ["apply Service thumbs-workers", "apply Deployment thumbs-workers"]


async def test_nothing_is_done_for_what_is_being_deleted(world: World) -> None:
    world.seen(POOL, "thumbs", spec={}, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert await world.settle(POOL_KEY) == []


async def test_the_counters_of_a_pool_end_with_it(world: World) -> None:
    failures = metrics.POLL_FAILURES
    failures.labels("ns", "thumbs", "get").inc()
    failures.labels("ns", "other", "get").inc()
    world.gone(POOL, "thumbs")
    await world.settle(POOL_KEY)
    left = {sample.labels["pool"] for family in failures.collect() for sample in family.samples}
    assert "other" in left
    assert "thumbs" not in left


async def test_a_pass_never_waits_for_a_worker(world: World) -> None:
    await world.settle(POOL_KEY)
    labels = {"imagefleet.dev/pool": "thumbs"}
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.1"}
    world.seen(POD, "a", metadata={"labels": labels}, status=ready)
    await world.settle(POOL_KEY)
    assert world.calls == [(("ns", "a"), 0.0, None, Role.ACTIVE)]


async def verified(world: World, result: Json) -> None:
    await world.reconciler.run(MODEL_KEY)
    ((_, _, job),) = (place for place in world.api.objects if place[0] == "Job")
    terminated = {"containerStatuses": [{"state": {"terminated": {"message": json.dumps(result)}}}]}
    owner = {"controller": True, "kind": "Job", "name": job}
    metadata = {"labels": {"imagefleet.dev/model": "shapes-1"}, "ownerReferences": [owner]}
    world.seen(POD, "check", metadata=metadata, status=terminated)


async def test_a_verified_model_wakes_the_pools_that_name_it(world: World) -> None:
    await verified(world, {"ok": True, "digest": DIGEST, "bytes": 7})
    writes = [write.partition(".")[0] for write in await world.settle(MODEL_KEY)]
    assert writes == ["apply status ImageModel shapes-1", "create Event shapes-1"]
    assert world.api.objects["ImageModel", "ns", "shapes-1"]["status"]["digest"] == DIGEST
    assert POOL_KEY in world.woken


async def test_a_failed_check_is_done_again_when_its_job_has_gone(world: World) -> None:
    await verified(world, {"ok": False, "reason": "DigestMismatch"})
    await world.settle(MODEL_KEY)
    ((_, _, job),) = (place for place in world.api.objects if place[0] == "Job")
    world.gone(POD, "check")
    assert await world.settle(MODEL_KEY) == []
    world.gone(JOB, job)
    assert await world.settle(MODEL_KEY) == [f"apply Job {job}"]
    stalled = world.condition(MODEL, "shapes-1", "Stalled")
    assert stalled is not None
    assert stalled["reason"] == "DigestMismatch"


async def test_a_pod_that_finds_no_accelerator_is_waited_for_and_then_a_worker_makes_room(
    world: World,
) -> None:
    await world.settle(POOL_KEY)
    made = world.api.objects["Deployment", "ns", "thumbs-workers"]
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 1}
    world.seen(DEPLOYMENT, "thumbs-workers", metadata=made["metadata"], spec=made["spec"], status=status)
    labels = {"imagefleet.dev/pool": "thumbs"}
    refused = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        "lastTransitionTime": timestamp(NOW - 2),
    }
    world.seen(POD, "new", metadata={"labels": labels}, status={"conditions": [refused]})
    world.seen(
        POD, "old", metadata={"labels": labels}, status={"conditions": [{"type": "Ready", "status": "True"}]}
    )
    assert await world.reconciler.run(POOL_KEY) == 3.0
    world.now += 3
    assert await world.settle(POOL_KEY) == ["apply Deployment thumbs-workers"]
    strategy = world.api.objects["Deployment", "ns", "thumbs-workers"]["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


async def test_a_pool_that_has_gone_waits_for_no_figures(world: World) -> None:
    await world.settle(POOL_KEY)
    assert world.watches.pop() == (("ns", "thumbs"), False)
    world.gone(POOL, "thumbs")
    world.watches.clear()
    await world.reconciler.run(POOL_KEY)
    assert world.watches == [(("ns", "thumbs"), False)]


async def test_a_rollout_is_written_told_and_looked_at_again(world: World) -> None:
    verified = {"digest": DIGEST, "bytes": 7, "conditions": VERIFIED}
    for name in ("shapes-1", "shapes-2"):
        source = {"source": {"uri": f"file:///models/{name}"}}
        world.seen(MODEL, name, spec=source, status=verified)
    await world.settle(POOL_KEY)
    assert world.watches[-1] == (("ns", "thumbs"), False)
    pool = world.api.drop(POOL, "thumbs")
    entry = {"name": "shapes", "model": "shapes-2", "rollout": {"steps": [{"setWeight": 5}]}}
    spec = {"models": [entry], "replicas": 1}
    world.seen(POOL, "thumbs", spec=spec, status=pool["status"], metadata={"uid": pool["metadata"]["uid"]})
    before = len(world.api.writes)
    assert await world.reconciler.run(POOL_KEY) == WATCH_SECONDS
    writes = [write.partition(".")[0] for write in world.api.writes[before:]]
    assert writes == ["apply status InferencePool thumbs", "create Event thumbs"]
    assert world.watches[-1] == (("ns", "thumbs"), True)
    (told,) = (obj for place, obj in world.api.objects.items() if place[0] == "Event")
    assert (told["reason"], told["type"]) == ("RolloutStarted", "Normal")
    assert told["note"] == "shapes: shapes-1 to shapes-2."
    world.now += 1
    await world.reconciler.run(POOL_KEY)
    assert world.api.writes[before + 2 :] == []


async def test_models_that_take_each_others_places_are_counted_and_told_of_once(world: World) -> None:
    await world.settle(MODEL_KEY)
    moves = (
        Move("hot", frozenset({"a", "b"}), ("b",), (), "Demand"),
        Move("cold", frozenset(), (), ("b",), "Demand"),
    )
    pool, memory = world.store.pool("ns", "thumbs"), Memory()
    assert pool is not None
    before = placement_changes()
    for _ in range(2):
        await world.reconciler._note_moves(pool, moves, memory)
    assert placement_changes() - before == 2
    (told,) = [obj for obj in world.api.objects.values() if obj.get("reason") == "PlacementChanged"]
    assert told["note"].startswith("hot joins b, held by 2 (Demand)")
    assert world.reconciler._moved(memory) == {"hot": {"a", "b"}, "cold": frozenset()}
    world.now += HOLD_SECONDS + 1
    assert world.reconciler._moved(memory) == {}


def placement_changes() -> float:
    return float(metrics.PLACEMENT_CHANGES.labels("ns", "thumbs", "Demand")._value.get())

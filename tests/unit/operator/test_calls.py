"""What is said to workers, and in which order the gateways' annotation follows."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from imagefleet_operator.calls import WorkerCalls
from imagefleet_operator.client import ApiError
from imagefleet_operator.kinds import POD
from imagefleet_operator.plan.cluster_types import Pod
from imagefleet_operator.plan.policy import Policy
from imagefleet_operator.plan.pool import POLL_UNSETTLED
from imagefleet_operator.plan.types import Device, Json, Report
from imagefleet_operator.pod_http import CallError
from imagefleet_operator.store.store import Key, Store, WorkerState
from imagefleet_operator.workers import WorkerClient

from tests.unit.operator.fakes import Api
from tests.unit.operator.make import NOW, holding, report

A = ("ns", "a")
POOL_KEY: Key = ("pool", "ns", "thumbs")
POLICY: Policy = ({"model": "shapes-1", "pinned": True},)
READY = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.1"}


class Workers(WorkerClient):
    """One worker that holds what it is told; ``broken`` makes it fail."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.models: tuple[str, ...] = ()
        self.utilization = 0.1
        self.broken = False

    async def report(self, pod: Pod) -> Report:
        self._note("get")
        return self._report()

    async def put_models(self, pod: Pod, policy: Any) -> Report:
        self._note("put " + ",".join(entry["model"] for entry in policy))
        self.models = tuple(entry["model"] for entry in policy)
        return self._report()

    def _report(self) -> Report:
        device = Device("NVIDIA-H200", self.utilization)
        return report(*(holding(model) for model in self.models), devices=(device,))

    async def interrupt(self, pod: Pod) -> None:
        self._note("interrupt")

    def _note(self, call: str) -> None:
        self.log.append(call)
        if self.broken:
            raise CallError("no answer")


class Annotations(Api):
    """Notes the annotations in the same log as the worker's calls."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    async def merge(self, kind: Any, namespace: str, name: str, body: Json) -> Json:
        written = await super().merge(kind, namespace, name, body)
        self.log.append("annotate " + written["metadata"]["annotations"]["imagefleet.dev/placement"])
        return written

    async def evict(self, namespace: str, name: str, uid: str) -> Json:
        self.log.append("evict")
        return await super().evict(namespace, name, uid)


@dataclass
class World:
    """A worker's pod, the worker, and an operator that talks to it."""

    log: list[str] = field(default_factory=list)
    woken: list[Key] = field(default_factory=list)
    later: list[Key] = field(default_factory=list)
    store: Store = field(default_factory=Store)

    def __post_init__(self) -> None:
        self.api, self.workers = Annotations(self.log), Workers(self.log)
        self.calls = WorkerCalls(
            self.store, self.api, self.workers, self.woken.extend, self.later.extend, lambda: NOW
        )
        self.pod()

    def pod(self, **parts: Any) -> None:
        """The pod is made anew, ready unless said otherwise."""
        metadata = {"labels": {"imagefleet.dev/pool": "thumbs"}}
        self.store.put(POD, self.api.add(POD, "a", **{"metadata": metadata, "status": READY, **parts}))

    @property
    def state(self) -> WorkerState:
        pod = self.store.pod(*A)
        assert pod is not None
        return self.store.worker(pod)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_worker_is_asked_as_often_as_was_arranged(world: World) -> None:
    assert world.calls.arrange(A, 15.0, None) == 15.0
    assert await world.calls.run(A) == 15.0
    assert world.log == ["get"]
    assert POOL_KEY in world.woken


async def test_news_alone_wake(world: World) -> None:
    await world.calls.run(A)
    world.woken.clear()
    await world.calls.run(A)
    assert world.woken == []


async def test_mere_readings_are_not_hurried(world: World) -> None:
    await world.calls.run(A)
    world.woken.clear()
    world.workers.utilization = 0.9
    await world.calls.run(A)
    assert (world.woken, world.later) == ([], [POOL_KEY])
    world.workers.models = ("shapes-1",)
    await world.calls.run(A)
    assert world.woken == [POOL_KEY]


async def test_what_is_added_reaches_the_worker_before_the_gateways(world: World) -> None:
    assert world.calls.arrange(A, 15.0, POLICY) == 0.0
    await world.calls.run(A)
    assert world.log == ["put shapes-1", 'annotate {"shapes-1":{"pinned":true}}']
    assert POOL_KEY in world.woken


async def test_what_is_taken_away_leaves_the_gateways_before_the_worker(world: World) -> None:
    world.calls.arrange(A, 15.0, POLICY)
    await world.calls.run(A)
    world.log.clear()
    world.calls.arrange(A, 15.0, ())
    await world.calls.run(A)
    assert world.log == ["annotate {}", "put "]


async def test_what_was_done_is_not_done_again(world: World) -> None:
    for _ in range(2):
        world.calls.arrange(A, 15.0, POLICY)
        await world.calls.run(A)
    assert len(world.log) == 2


async def test_a_worker_that_takes_no_policy_is_silent_and_not_shown_to_gateways(world: World) -> None:
    world.workers.broken = True
    world.calls.arrange(A, 15.0, POLICY)
    await world.calls.run(A)
    assert world.log == ["put shapes-1"]
    assert (world.state.silent_since, world.state.silence) == (NOW, "no answer")
    assert POOL_KEY in world.woken
    assert world.calls.arrange(A, 15.0, POLICY) == 15.0
    world.workers.broken = False
    await world.calls.run(A)
    assert world.log[1:] == ["put shapes-1", 'annotate {"shapes-1":{"pinned":true}}']
    assert (world.state.silent_since, world.state.silence) == (None, "")


async def test_an_annotation_that_could_not_be_written_is_written_with_the_next_round(world: World) -> None:
    world.api.fail["merge Pod"] = [ApiError(500, "", "etcd")]
    world.calls.arrange(A, 15.0, POLICY)
    with pytest.raises(ApiError):
        await world.calls.run(A)
    await world.calls.run(A)
    assert world.log == ["put shapes-1", 'annotate {"shapes-1":{"pinned":true}}']


async def test_a_pod_that_was_replaced_meanwhile_is_let_go(world: World) -> None:
    world.api.add(POD, "a", status=READY)
    world.calls.arrange(A, 15.0, POLICY)
    assert await world.calls.run(A) == 15.0
    assert world.log == ["put shapes-1"]


async def test_a_worker_that_started_anew_is_told_again(world: World) -> None:
    world.calls.arrange(A, 15.0, POLICY)
    await world.calls.run(A)
    pod = world.api.objects["Pod", "ns", "a"]
    world.workers.models = ()
    world.pod(metadata=pod["metadata"], status={})
    world.pod(metadata=pod["metadata"])
    world.log.clear()
    world.calls.arrange(A, 15.0, POLICY)
    await world.calls.run(A)
    assert world.log == ["put shapes-1"]


TAKE_AWAY = ["annotate {}", "interrupt", "evict"]


async def interrupted(world: World) -> float | None:
    """One round with the worker after its node was found to go; the log is that of this round."""
    pod = world.store.pod(*A)
    assert pod is not None
    world.log.clear()
    world.calls.interrupt(pod)
    return await world.calls.run(A)


async def test_an_interrupted_worker_leaves_the_gateways_before_it_hands_over_and_ends(world: World) -> None:
    world.calls.arrange(A, 15.0, POLICY)
    await world.calls.run(A)
    assert await interrupted(world) is None
    assert world.log == TAKE_AWAY


async def test_a_worker_that_does_not_answer_ends_all_the_same(world: World) -> None:
    world.workers.broken = True
    assert await interrupted(world) is None
    assert world.log == ["interrupt", "evict"]


async def test_an_interrupted_worker_that_is_still_starting_just_ends(world: World) -> None:
    world.pod(status={}, metadata=world.api.objects["Pod", "ns", "a"]["metadata"])
    assert await interrupted(world) is None
    assert world.log == ["evict"]


async def test_where_a_budget_forbids_an_eviction_it_is_asked_for_again(world: World) -> None:
    world.api.fail["evict Pod"] = [ApiError(429, "TooManyRequests", "the budget")]
    assert await interrupted(world) == POLL_UNSETTLED
    assert await world.calls.run(A) is None
    assert world.log == ["interrupt", "evict"] * 2


async def test_a_worker_that_somebody_else_ended_is_let_go(world: World) -> None:
    world.api.drop(POD, "a")
    assert await interrupted(world) is None


async def test_an_eviction_that_fails_is_tried_again(world: World) -> None:
    world.api.fail["evict Pod"] = [ApiError(500, "", "etcd")]
    with pytest.raises(ApiError):
        await interrupted(world)
    world.log.clear()
    assert await world.calls.run(A) is None
    assert world.log == ["interrupt", "evict"]


@pytest.mark.parametrize("gone", ["not ready", "deleted"])
async def test_who_is_not_there_is_not_called(gone: str, world: World) -> None:
    world.calls.arrange(A, 15.0, POLICY)
    if gone == "deleted":
        world.store.remove(POD, world.api.drop(POD, "a"))
    else:
        world.pod(status={})
    assert await world.calls.run(A) is None
    assert world.log == []

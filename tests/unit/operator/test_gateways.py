"""Finding gateways and asking what they counted: who is asked how often, and who is woken."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from imagefleet_operator import gateways, metrics
from imagefleet_operator.client import ApiError
from imagefleet_operator.gateways import (
    ASK_SELDOM,
    ASK_WATCHED,
    FIND,
    FIND_SECONDS,
    GatewayClient,
    Gateways,
    Told,
)
from imagefleet_operator.kinds import POD
from imagefleet_operator.plan.capacity_types import ModelLoad
from imagefleet_operator.plan.rollout_types import Arm, NameFigures
from imagefleet_operator.plan.types import Name
from imagefleet_operator.pod_http import CallError
from imagefleet_operator.store.counts import Counts
from imagefleet_operator.store.demand import Demands
from imagefleet_operator.store.figures import Entry
from imagefleet_operator.store.ledger import Ledger
from imagefleet_operator.store.loads import Loads, Said
from imagefleet_operator.store.store import Key

from tests.unit.operator.fakes import Api

ENTRY: Entry = ("studio", "pictures", "shapes")
POOL: Name = ENTRY[:2]
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


class Answers(GatewayClient):
    """Gateways by address, which answer with so many requests; those that are not there are silent."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.asked: list[str] = []

    async def ask(self, ip: str) -> Told:
        self.asked.append(ip)
        if ip not in self.requests:
            raise CallError("no answer")
        return told(self.requests[ip])


def told(requests: int) -> Told:
    """So many requests, of 2 GPU-seconds each."""
    figures = {ENTRY: NameFigures(arms={"shapes-1": Arm(requests=requests)})}
    return Told(figures, {(*POOL, "shapes-1"): Said(ModelLoad(arrived_seconds=2.0 * requests))})


@dataclass
class World:
    """An API server with gateways in namespace ns, and an operator that looks for them."""

    api: Api = field(default_factory=Api)
    answers: Answers = field(default_factory=Answers)
    ledger: Ledger = field(default_factory=Ledger)
    demands: Demands = field(default_factory=lambda: Demands(lambda: 100.0))
    loads: Loads = field(default_factory=Loads)
    counts: Counts = field(default_factory=Counts)
    added: list[tuple[str, float]] = field(default_factory=list)
    woken: list[Key] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gateways = Gateways(
            self.ledger,
            self.demands,
            self.loads,
            self.counts,
            self.api,
            self.answers,
            namespace="ns",
            selector="app=gateway",
            add=lambda key, delay: self.added.append((key, delay)),
            wake=self.woken.extend,
        )

    async def gateway(self, name: str, ip: str, requests: int, **parts: Any) -> None:
        """A gateway comes and is found."""
        self.answers.requests[ip] = requests
        self.api.add(POD, name, status={**READY, "podIP": ip}, **parts)
        await self.gateways.run(FIND)

    def counted(self) -> int | None:
        found = self.ledger.of(ENTRY, "")
        return found.arms["shapes-1"].requests if found else None


@pytest.fixture
def world() -> World:
    return World()


async def test_gateways_are_found_asked_and_added_up(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    await world.gateway("b", "10.0.0.2", 4)
    assert world.added == [("a", 0.0), ("b", 0.0)]
    for name in ("a", "b"):
        await world.gateways.run(name)
    assert world.counted() == 7


async def test_pods_of_other_namespaces_are_no_gateways(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3, metadata={"namespace": "elsewhere"})
    assert world.added == []


async def test_a_gateway_is_asked_often_while_a_pool_waits_and_seldom_else(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    assert await world.gateways.run("a") == ASK_SELDOM
    world.gateways.watch(POOL, True)
    world.gateways.watch(("ns", "other"), True)
    assert world.added[1:] == [("a", 0.0)], "the first that waits has all asked at once"
    world.gateways.watch(POOL, False)
    assert await world.gateways.run("a") == ASK_WATCHED
    world.gateways.watch(("ns", "other"), False)
    assert await world.gateways.run("a") == ASK_SELDOM


async def test_news_wake_the_pools_that_wait_for_them_alone(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    await world.gateways.run("a")
    assert world.woken == []
    world.gateways.watch(POOL, True)
    await world.gateways.run("a")
    assert world.woken == [], "it says what it said"
    world.answers.requests["10.0.0.1"] = 4
    await world.gateways.run("a")
    assert world.woken == [("pool", *POOL)]


async def test_pools_hear_of_further_demand_now_and_then_though_they_wait_for_nothing(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    for requests in (3, 4, 5):
        world.answers.requests["10.0.0.1"] = requests
        await world.gateways.run("a")
    assert world.woken == [("pool", *POOL)], "not of each request"
    assert world.demands.of(*POOL) == {"shapes-1": 4.0}


async def test_a_gateway_that_has_gone_is_forgotten(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    await world.gateways.run("a")
    world.api.drop(POD, "a")
    assert await world.gateways.run(FIND) == FIND_SECONDS
    assert await world.gateways.run("a") is None
    assert world.counted() is None


async def test_a_gateway_that_ends_is_asked_often_for_what_it_finishes_and_may_be_silent(
    world: World,
) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    metadata = {
        **world.api.objects["Pod", "ns", "a"]["metadata"],
        "deletionTimestamp": "2026-11-23T02:00:00Z",
    }
    world.api.objects["Pod", "ns", "a"] |= {"metadata": metadata, "status": {"podIP": "10.0.0.1"}}
    await world.gateways.run(FIND)
    assert await world.gateways.run("a") == ASK_WATCHED
    assert world.counted() == 3
    before = metrics.GATEWAY_FAILURES._value.get()
    del world.answers.requests["10.0.0.1"]
    await world.gateways.run("a")
    assert metrics.GATEWAY_FAILURES._value.get() == before


async def test_an_answer_that_comes_after_its_gateway_has_gone_counts_no_more(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)

    async def ask(ip: str) -> Told:
        world.api.drop(POD, "a")
        await world.gateways.run(FIND)
        return told(3)

    world.answers.ask = ask  # type: ignore[method-assign]
    await world.gateways.run("a")
    assert world.counted() is None


@pytest.mark.parametrize("status", [{"podIP": "10.0.0.1"}, READY], ids=["not ready", "no address"])
async def test_a_gateway_that_cannot_answer_yet_is_not_asked(status: Any, world: World) -> None:
    world.api.add(POD, "a", status=status)
    await world.gateways.run(FIND)
    assert await world.gateways.run("a") == ASK_SELDOM
    assert world.answers.asked == []
    world.api.objects["Pod", "ns", "a"]["status"] = {**READY, "podIP": "10.0.0.1"}
    await world.gateways.run(FIND)
    assert world.added == [("a", 0.0), ("a", 0.0)], "what changed is asked at once"


async def test_the_known_gateways_stay_while_the_api_server_is_away(world: World) -> None:
    await world.gateway("a", "10.0.0.1", 3)
    world.api.fail["list Pod"] = [ApiError(500, "", "etcd")]
    with pytest.raises(ApiError):
        await world.gateways.run(FIND)
    await world.gateways.run("a")
    assert world.counted() == 3


async def test_a_silence_is_counted_each_time_and_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics.GATEWAY_FAILURES._value.get()
    await world.gateway("a", "10.0.0.1", 3)
    del world.answers.requests["10.0.0.1"]
    for _ in range(3):
        assert await world.gateways.run("a") == ASK_SELDOM
    assert metrics.GATEWAY_FAILURES._value.get() - before == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayClient]:
    """A client, and a gateway at 127.0.0.1 that answers as told."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(gateways, "PORT", runner.addresses[0][1])
    client = GatewayClient()
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def test_a_gateway_is_asked_as_the_contract_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.path, "Authorization" in request.headers))
        name = {"namespace": "studio", "pool": "pictures", "name": "shapes", "window": "w"}
        model = {"namespace": "studio", "pool": "pictures", "model": "shapes-1", "arrivedWorkSeconds": 6.0}
        return web.json_response({"pod": "g", "models": [model], "names": [name]})

    async with serving(handler, monkeypatch) as client:
        route = (*POOL, "shapes-1")
        load = Said(ModelLoad(arrived_seconds=6.0))
        want = Told({ENTRY: NameFigures("w")}, {route: load})
        assert await client.ask("127.0.0.1") == want
    assert asked == [("/v1/gateway", False)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: web.json_response({}, status=503), "503"),
        (lambda: web.json_response([]), "InvalidFiguresError"),
        (lambda: web.Response(text="<html>"), "JSONDecodeError"),
        (lambda: web.json_response({"names": "x" * gateways.FIGURES_BYTES}), "more than"),
        (lambda: web.Response(status=307, headers={"Location": "/elsewhere"}), "307"),
    ],
    ids=["an error", "no figures", "no JSON", "too much", "a redirect"],
)
async def test_any_other_answer_is_no_answer(
    answer: Callable[[], web.Response], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer() if request.path != "/elsewhere" else web.json_response({"names": []})

    async with serving(handler, monkeypatch) as client:
        with pytest.raises(CallError, match=message):
            await client.ask("127.0.0.1")

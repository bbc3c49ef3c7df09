"""Full lists: what they find, and what they find gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from imagefleet_operator.client import ApiError
from imagefleet_operator.kinds import POD, POOL, SERVICE, Kind
from imagefleet_operator.plan.types import Json
from imagefleet_operator.store.store import Key, Store
from imagefleet_operator.sync import MissingKindError, follow_relists, list_all

from tests.unit.operator.fakes import Api

SPEC = {"models": [{"name": "shapes", "model": "shapes-1"}], "replicas": 1}
KEY: Key = ("pool", "ns", "thumbs")


def add_pod(api: Api) -> None:
    api.add(POD, "a", metadata={"labels": {"imagefleet.dev/pool": "thumbs"}})


async def test_a_list_finds_what_came_and_what_went_unnoticed() -> None:
    store, api = Store(), Api()
    add_pod(api)
    assert await list_all(store, api) == {KEY}
    assert await list_all(store, api) == set()
    api.drop(POD, "a")
    assert await list_all(store, api) == {KEY}
    assert store.pod("ns", "a") is None


async def test_a_successor_that_came_while_the_list_was_under_way_stays() -> None:
    class Late(Api):
        """The watch tells of the successor right after the pods were read."""

        async def list(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Json]:
            found = [obj async for obj in super().list(kind, namespace)]
            if kind is POD and not found:
                add_pod(self)
                store.put(POD, self.objects["Pod", "ns", "a"])
            for obj in found:
                yield obj

    store, api = Store(), Late()
    add_pod(api)
    await list_all(store, api)
    first = store.pod("ns", "a")
    api.drop(POD, "a")
    await list_all(store, api)
    assert store.pod("ns", "a") not in (None, first)


async def test_a_cluster_without_our_kinds_is_told_how_to_get_them() -> None:
    api = Api()
    api.fail["list InferencePool"] = [ApiError(404, "NotFound", "")]
    with pytest.raises(MissingKindError, match="install the CRDs"):
        await list_all(Store(), api)


async def test_after_kopf_listed_again_what_vanished_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagefleet_operator.sync.RELIST_SECONDS", 0)
    store, api, relisted = Store(), Api(), asyncio.Event()
    api.add(POOL, "thumbs", spec=SPEC)
    api.add(SERVICE, "thumbs-workers", metadata={"labels": {"imagefleet.dev/pool": "thumbs"}})
    await list_all(store, api)
    api.drop(POOL, "thumbs")
    woken: asyncio.Queue[Key] = asyncio.Queue()
    following = asyncio.create_task(
        follow_relists(store, api, lambda key, delay: woken.put_nowait(key), relisted)
    )
    relisted.set()
    async with asyncio.timeout(10):
        assert {await woken.get(), await woken.get()} == {KEY, ("model", "ns", "shapes-1")}
    assert store.pool("ns", "thumbs") is None
    following.cancel()

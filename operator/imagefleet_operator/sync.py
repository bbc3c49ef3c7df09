"""Full lists: the first one opens the gate before which nothing is decided, later ones drop what no event
told of."""

import asyncio
import logging
import random
from collections.abc import Callable

from imagefleet_operator import metrics
from imagefleet_operator.client import ApiError, KubeClient
from imagefleet_operator.kinds import WATCHED, Kind
from imagefleet_operator.store.store import Key, Store

logger = logging.getLogger(__name__)
RELIST_SECONDS = 5.0
"""From kopf's first word of a list to ours: one for all kinds whose watches broke together."""
SPREAD_SECONDS = 60.0
"""A resync's passes are spread over this time."""


class MissingKindError(Exception):
    """The API server does not know a kind that the operator works with."""


async def list_all(store: Store, client: KubeClient) -> set[Key]:
    """List every kind into the store; the keys that anything new concerns.

    Raises MissingKindError, and ApiError and ApiUnreachableError for what may be better later.
    """
    keys: set[Key] = set()
    for kind in WATCHED:
        keys |= await _list(store, client, kind)
    metrics.SYNCED.set(1)
    for name, count in store.counts().items():
        metrics.STORED.labels(name).set(count)
    return keys


async def _list(store: Store, client: KubeClient, kind: Kind) -> set[Key]:
    known = store.uids(kind)
    keys: set[Key] = set()
    listed = set()
    try:
        async for obj in client.list(kind):
            listed.add((kind.kind, obj["metadata"]["namespace"], obj["metadata"]["name"]))
            keys |= store.put(kind, obj)
    except ApiError as error:
        if error.status == 404:
            raise MissingKindError(
                f"the cluster does not know {kind.plural}.{kind.group or 'core'}: install the CRDs of imagefleet "
                "(kubectl apply -f crds/, or the chart), then this starts by itself"
            ) from error
        raise
    for address, uid in known.items():
        if address not in listed:
            keys |= store.forget(address, uid)
    return keys


async def resync(store: Store, client: KubeClient, add: Callable[[Key, float], None], seconds: float) -> None:
    """Every ``seconds``, give or take a third, list everything and look at every pool and model again. Never
    returns."""
    while True:
        await asyncio.sleep(seconds * random.uniform(2 / 3, 4 / 3))  # noqa: S311
        if await _refresh(store, client, add):
            for key in store.parent_keys():
                add(key, random.uniform(0, SPREAD_SECONDS))  # noqa: S311


async def follow_relists(
    store: Store, client: KubeClient, add: Callable[[Key, float], None], relisted: asyncio.Event
) -> None:
    """List everything some seconds after ``relisted`` was set. Never returns.

    kopf lists a kind again when its watch broke off, but does not tell what has vanished meanwhile: workers that
    nobody could reach, pools whose children would be made again and again.
    """
    while True:
        await relisted.wait()
        await asyncio.sleep(RELIST_SECONDS)
        relisted.clear()
        await _refresh(store, client, add)


async def _refresh(store: Store, client: KubeClient, add: Callable[[Key, float], None]) -> bool:
    try:
        changed = await list_all(store, client)
    except Exception as error:
        logger.warning("the lists of a resync failed, the next one will do: %s", error)
        return False
    for key in changed:
        add(key, 0.0)
    return True

"""The kill switch: what is suspended ends at once, and its callers are told whom to ask."""

from collections.abc import Iterable

from .errors import SERVER_ERROR, SUSPENDED, ApiError
from .relay import Visit
from .snapshot import Route, Snapshot

# openai's clients send a 503 again unless they are told not to.
_NO_RETRY = (b"x-should-retry", b"false")


def suspended(namespace: str, name: str, pools: Iterable[str]) -> ApiError:
    """The reply to requests for a name while all that is behind it is suspended."""
    where = ", ".join(f"'{namespace}/{pool}'" for pool in dict.fromkeys(pools))
    return ApiError(
        503,
        SUSPENDED,
        f"Model '{namespace}/{name}' is suspended. Trying again does not help until whoever runs InferencePool {where} "
        "lets it go on.",
        kind=SERVER_ERROR,
        headers=(_NO_RETRY,),
    )


def route_suspended(route: Route) -> ApiError:
    return suspended(route.namespace, route.name, (pool for pool, _ in route.suspended))


def stop_suspended(visits: Iterable[Visit], snapshot: Snapshot) -> None:
    """End the requests that are on workers of what is suspended."""
    if not snapshot.suspending:
        return
    for visit in list(visits):
        share = visit.choice.share
        if snapshot.suspends(share.namespace, share.pool, visit.name, share.model):
            visit.stop(suspended(share.namespace, visit.name, [share.pool]))

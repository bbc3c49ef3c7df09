"""The routing snapshot: what callers can ask for and which workers may serve it.

Pure. It is built when watched objects change, so that a request only looks things up.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from .errors import ApiError, invalid
from .quota import BudgetView
from .resources import NO_SCALING, Fallback, Key, ModelView, PoolModel, PoolView, Scaling, Stickiness, Worker

# A message that lists names stays readable in a log line.
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Share:
    """One ImageModel's part of a name's traffic in one pool."""

    namespace: str
    pool: str
    model: str
    percent: float
    view: ModelView | None
    """None while the ImageModel does not exist."""
    workers: tuple[Worker, ...]
    """Workers of the pool whose placement allows the model."""
    scored: bool = False
    """Its pictures are compared with another ImageModel's."""
    scaling: Scaling = NO_SCALING
    """Of the pool."""
    budget: BudgetView | None = None
    """Of the pool; None: it has none."""

    @property
    def key(self) -> Key:
        return self.namespace, self.pool, self.model


@dataclass(frozen=True)
class Route:
    """Where requests for one name of one namespace go: per pool that offers it, its shares of traffic.

    Suspended ImageModels have none.
    """

    namespace: str
    name: str
    created: int
    pools: tuple[tuple[Share, ...], ...]
    """Sorted by pool; no member is empty, and there is none while all is suspended."""
    mirrors: tuple[Share, ...] = ()
    """ImageModels that get copies of the requests that a pool serves, with percents."""
    suspended: tuple[tuple[str, str], ...] = ()
    """(pool, ImageModel) of what is suspended."""
    fallback: Fallback | None = None
    stickiness: Stickiness | None = None
    """A request has one place for all pools: the first pool's that has any holds for all. So does `fallback`."""
    batch: bool = False
    """Whether every pool that offers it is of tier batch."""

    @property
    def shares(self) -> tuple[Share, ...]:
        return tuple(share for pool in self.pools for share in pool)

    @cached_property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @cached_property
    def budgeted(self) -> bool:
        """Whether any of its pools has a budget."""
        return any(shares[0].budget is not None for shares in self.pools)

    @cached_property
    def cells(self) -> tuple[tuple[float, float], ...]:
        """(start, width) of the parts of 0..100 in each of which every pool draws one and the same share.

        Example: of a pool with traffic 95/5 and one with 50/50 they are (0, 50), (50, 45) and (95, 5).
        """
        bounds = {0.0, 100.0}
        for pool in self.pools:
            total, at = sum(share.percent for share in pool), 0.0
            for share in pool[:-1]:
                at += share.percent
                bounds.add(100 * at / total)
        ordered = sorted(bounds)
        return tuple((low, high - low) for low, high in pairwise(ordered))

    def without(self, closed: Collection[tuple[str, str]]) -> "Route":
        """The route as if these, (pool, ImageModel), were suspended."""
        left = (tuple(s for s in pool if (s.pool, s.model) not in closed) for pool in self.pools)
        return replace(
            self,
            pools=tuple(pool for pool in left if pool),
            suspended=tuple(dict.fromkeys((*self.suspended, *closed))),
        )


@dataclass(frozen=True)
class Snapshot:
    workers: Mapping[str, Worker]
    """By pod uid."""
    routes: Mapping[str, Route]
    """By NAMESPACE/NAME, and by NAME where only one namespace offers it."""
    ambiguous: Mapping[str, tuple[str, ...]]
    """Bare names that several namespaces offer, with their full names."""
    pools: tuple[PoolView, ...] = ()
    suspending: Mapping[tuple[str, str, str], PoolModel] = field(default_factory=dict)
    """Entries of which something is suspended, by namespace, pool and name."""

    def find(self, model: str | None) -> Route:
        """The route for a request's `model`.

        Raises ApiError: 404 `model_not_found`; 400 `ambiguous_model`; 400 `missing_required_parameter` where
        no model is named and there is not exactly one.
        """
        if model is None:
            return self._only_route()
        route = self.routes.get(model)
        if route is not None:
            return route
        if model in self.ambiguous:
            names = ", ".join(self.ambiguous[model])
            raise invalid(
                "ambiguous_model", "model", f"Several namespaces offer '{model}': use one of {names}."
            )
        raise ApiError(
            404,
            "model_not_found",
            f"There is no model '{model[:100]}'. {self._choices()}",
            param="model",
        )

    def suspends(self, namespace: str, pool: str, name: str, model: str) -> bool:
        entry = self.suspending.get((namespace, pool, name))
        return entry is not None and entry.suspends(model)

    def listed(self) -> list[tuple[str, Route]]:
        """(id, route) of every route once, by the shortest name that callers can use."""
        full = [f"{r.namespace}/{r.name}" for r in self.routes.values() if r.name in self.ambiguous]
        bare = [name for name in self.routes if "/" not in name]
        return [(name, self.routes[name]) for name in sorted({*full, *bare})]

    def _only_route(self) -> Route:
        listed = self.listed()
        if len(listed) == 1:
            return listed[0][1]
        raise invalid("missing_required_parameter", "model", f"Missing parameter: 'model'. {self._choices()}")

    def _choices(self) -> str:
        names = [name for name, _ in self.listed()]
        if not names:
            return "No InferencePool offers a model yet."
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return f"Choose one of: {', '.join(names[:_NAMES_SHOWN])}{more}."


EMPTY = Snapshot({}, {}, {})


def build(workers: Iterable[Worker], pools: Iterable[PoolView], models: Iterable[ModelView]) -> Snapshot:
    """Join the three kinds of objects into a snapshot."""
    by_uid = {worker.uid: worker for worker in workers}
    placed = _placed(by_uid.values())
    views = {(m.namespace, m.name): m for m in models}
    known = tuple(sorted(pools, key=lambda p: (p.namespace, p.name)))
    offers: dict[tuple[str, str], list[tuple[PoolView, PoolModel]]] = defaultdict(list)
    for pool in known:
        for entry in pool.models:
            offers[pool.namespace, entry.name].append((pool, entry))

    def shares(pool: PoolView, entry: PoolModel, percents: Iterable[tuple[str, float]]) -> tuple[Share, ...]:
        return tuple(
            Share(
                namespace=pool.namespace,
                pool=pool.name,
                model=model,
                percent=percent,
                view=views.get((pool.namespace, model)),
                workers=tuple(placed.get((pool.namespace, pool.name, model), ())),
                scored=entry.scored,
                scaling=pool.scaling,
                budget=pool.budget,
            )
            for model, percent in percents
            if not entry.suspends(model)
        )

    routes = [
        Route(
            namespace=namespace,
            name=name,
            created=min(pool.created for pool, _ in offered),
            pools=tuple(s for pool, entry in offered if (s := shares(pool, entry, entry.traffic))),
            mirrors=tuple(s for pool, entry in offered for s in shares(pool, entry, entry.mirror)),
            suspended=tuple((pool.name, model) for pool, entry in offered for model in _suspended(entry)),
            fallback=next((entry.fallback for _, entry in offered if entry.fallback), None),
            stickiness=next((entry.stickiness for _, entry in offered if entry.stickiness), None),
            batch=all(pool.batch for pool, _ in offered),
        )
        for (namespace, name), offered in offers.items()
    ]
    suspending = {
        (pool.namespace, pool.name, entry.name): entry
        for pool in known
        for entry in pool.models
        if entry.suspended or entry.suspended_models
    }
    return Snapshot(by_uid, *_index(routes), known, suspending)


def _suspended(entry: PoolModel) -> list[str]:
    """Those with traffic first."""
    models = (*(model for model, _ in entry.traffic), entry.canary, *entry.suspended_models)
    return [model for model in dict.fromkeys(models) if model and entry.suspends(model)]


def _placed(workers: Iterable[Worker]) -> dict[tuple[str, str, str], list[Worker]]:
    placed: dict[tuple[str, str, str], list[Worker]] = defaultdict(list)
    for worker in workers:
        for model, _ in worker.placement:
            placed[worker.namespace, worker.pool, model].append(worker)
    return placed


def _index(routes: list[Route]) -> tuple[dict[str, Route], dict[str, tuple[str, ...]]]:
    full = {f"{route.namespace}/{route.name}": route for route in routes}
    namesakes: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        namesakes[route.name].append(route)
    bare = {name: same[0] for name, same in namesakes.items() if len(same) == 1}
    ambiguous = {
        name: tuple(sorted(f"{r.namespace}/{r.name}" for r in same))
        for name, same in namesakes.items()
        if len(same) > 1
    }
    return full | bare, ambiguous


def describe(name: str, route: Route) -> dict[str, Any]:
    """One entry of `GET /v1/models`.

    `capabilities` and `adapters` are those of every ImageModel behind the name; null: not restricted.
    """
    shares = route.shares
    views = [share.view for share in shares if share.view]
    allowed = [set(view.capabilities) for view in views if view.capabilities is not None]
    return {
        "id": name,
        "object": "model",
        "created": route.created,
        "owned_by": route.namespace,
        "imagefleet": {
            "models": {share.model: share.percent for share in shares},
            "suspended": sorted({model for _, model in route.suspended}),
            "license": next((view.license for view in views if view.license), None),
            "capabilities": sorted(set.intersection(*allowed)) if allowed else None,
            "adapters": sorted(set.intersection(*(set(view.adapters) for view in views))) if views else [],
            "ready": any(s.workers and s.view and not s.view.stalled for s in shares),
        },
    }

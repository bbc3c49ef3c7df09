"""Typed reading of the three kinds of objects that the gateway watches.

Pure: raw JSON in, frozen values out. Fields that the gateway does not use are never decoded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from .quota import BudgetView, Reduced, read_budget, read_reduced
from .schemas import (
    Condition,
    Model,
    ModelStatus,
    Pod,
    Pool,
    PoolModelSpec,
    PoolModelStatus,
    PoolStatus,
    Size,
    Slo,
    Traffic,
)

WORKER_PORT = 8000
PLACEMENT_ANNOTATION = "imagefleet.dev/placement"
POOL_LABEL = "imagefleet.dev/pool"
# Seconds; the default of `spec.scaling.waitSeconds`, for pools without `spec.scaling` too.
WAIT_SECONDS = 30.0
WORKER_SELECTOR = "app.kubernetes.io/name=imagefleet-worker"

Key = tuple[str, str, str]
"""Namespace, pool, ImageModel; all empty for a request that named no model of the fleet."""
NO_KEY: Key = ("", "", "")


@dataclass(frozen=True)
class Worker:
    """A worker's pod that can take requests: Ready, with an address, not being deleted.

    Two values differ whenever something changed that matters to routing, its placement included.
    """

    uid: str
    namespace: str
    pool: str
    pod: str
    host: str
    port: int
    placement: tuple[tuple[str, bool], ...]
    """(ImageModel, pinned), sorted by name."""


@dataclass(frozen=True)
class Fallback:
    """What callers get while a name is suspended: another name of the namespace, or replies that were given before."""

    model: str = ""
    cached: bool = False


@dataclass(frozen=True)
class Stickiness:
    """What a caller keeps its place in the traffic by."""

    header: bytes = b""
    """A header's name in lower case; empty: none."""
    user: bool = False
    """The body's `user`."""


@dataclass(frozen=True)
class PoolModel:
    """A name that callers use, and the ImageModels that serve it, with percents of its traffic."""

    name: str
    traffic: tuple[tuple[str, float], ...]
    """Empty only where the operator took it away because of `suspended_models`."""
    mirror: tuple[tuple[str, float], ...] = ()
    """ImageModels that get copies of requests, with percents."""
    window: str = ""
    """Figures of a rollout's step are counted since it changed."""
    slow_seconds: float | None = None
    """The SLO's latency; None where there is none."""
    canary: str = ""
    suspended: bool = False
    """All that is behind the name."""
    suspended_models: tuple[str, ...] = ()
    """Single ImageModels behind it, sorted."""
    fallback: Fallback | None = None
    stickiness: Stickiness | None = None

    @property
    def scored(self) -> bool:
        """Whether pictures are compared with another ImageModel's."""
        return len(self.traffic) > 1 or bool(self.canary or self.mirror)

    def suspends(self, model: str) -> bool:
        return self.suspended or model in self.suspended_models


@dataclass(frozen=True)
class Scaling:
    """How long a pool's requests may wait, and what the operator says of workers to come."""

    wait_seconds: float = WAIT_SECONDS
    """A request is in time where it begins so soon after its arrival."""
    expected_at: float | None = None
    """When the next worker should draw, Unix time; None where none is on its way."""
    start_seconds: float | None = None
    """From the decision for a worker until it is ready; None where none was measured."""


NO_SCALING = Scaling()
"""Of a pool that says nothing."""


@dataclass(frozen=True)
class PoolView:
    namespace: str
    name: str
    created: int
    """Unix time."""
    models: tuple[PoolModel, ...]
    scaling: Scaling = NO_SCALING
    batch: bool = False
    """Its tier: requests may wait unless they say that somebody does."""
    budget: BudgetView | None = None


@dataclass(frozen=True)
class ModelView:
    """An ImageModel as the gateway needs it."""

    namespace: str
    name: str
    steps: int
    guidance_scale: float
    size: tuple[int, int]
    max_megapixels: float
    max_steps: int
    max_images: int
    capabilities: tuple[str, ...] | None
    """The modes that are allowed; None: all that the pipeline has, which the worker knows."""
    adapters: tuple[str, ...]
    license: str | None
    stalled: str | None
    """Why the model can never serve as it is; None while it can."""
    rate: float | None
    """Seconds per megapixel-step: the mean over accelerators; None where none was measured."""
    load_seconds: float | None
    batches: tuple[tuple[tuple[int, int], int], ...] = ()
    """(size, pictures that are drawn together at most), as measured, the smallest size first."""
    reduced: Reduced | None = None
    """What its pictures are while a budget is nearly used up; None: what they are ever."""

    def together(self, width: Any, height: Any) -> int:
        """Pictures of a size that workers draw together: as of the next larger size that was measured, else 1.

        Example: with 4 at 512x512 it is 4 for 256x256, and 1 for 1024x1024 or where no size is given.
        """
        if isinstance(width, int) and isinstance(height, int):
            for (wide, high), most in self.batches:
                if width * height <= wide * high:
                    return most
        return 1


def read_worker(pod: Pod) -> Worker | None:
    """The worker in a pod; None where it cannot take requests."""
    meta, status = pod.metadata, pod.status
    pool = (meta.labels or {}).get(POOL_LABEL)
    if not pool or not status.pod_ip or meta.deletion_timestamp or not _is_true(status.conditions, "Ready"):
        return None
    return Worker(
        uid=meta.uid,
        namespace=meta.namespace,
        pool=pool,
        pod=meta.name,
        host=status.pod_ip,
        port=_http_port(pod),
        placement=read_placement((meta.annotations or {}).get(PLACEMENT_ANNOTATION)),
    )


def read_placement(annotation: str | None) -> tuple[tuple[str, bool], ...]:
    """(ImageModel, pinned) from the operator's annotation; empty where it is absent or not readable.

    Example: `{"sdxl": {"pinned": false}}` is (("sdxl", False),).
    """
    try:
        placed = msgspec.json.decode(annotation or "{}", type=dict[str, dict[str, Any]])
    except msgspec.DecodeError:
        return ()
    return tuple(sorted((name, entry.get("pinned") is True) for name, entry in placed.items()))


def read_pool(pool: Pool) -> PoolView:
    """The pool's names and traffic: status decides; before its first status the spec's model gets all."""
    status = pool.status or PoolStatus()
    known = {entry.name: entry for entry in status.models or []}
    models = tuple(
        _read_entry(
            entry,
            known.get(entry.name) or PoolModelStatus(entry.name),
            pool.spec.suspend or entry.suspend,
            tuple(
                sorted({s.model for s in status.suspensions or [] if s.name == entry.name and not s.until})
            ),
        )
        for entry in pool.spec.models
    )
    meta = pool.metadata
    return PoolView(
        meta.namespace,
        meta.name,
        int(_unix_time(meta.creation_timestamp) or 0),
        models,
        _read_scaling(pool),
        batch=pool.spec.tier == "batch",
        budget=read_budget(pool),
    )


def _read_scaling(pool: Pool) -> Scaling:
    spec, status = pool.spec.scaling, pool.status.scaling if pool.status else None
    wait = measured(spec.wait_seconds) if spec else None
    return Scaling(
        WAIT_SECONDS if wait is None else wait,
        _unix_time(status.expected_at) if status else None,
        measured(status.start_seconds) if status else None,
    )


def _read_entry(
    spec: PoolModelSpec, status: PoolModelStatus, suspended: bool, suspended_models: tuple[str, ...]
) -> PoolModel:
    traffic = _percents(status.traffic)
    if not traffic and not suspended_models:
        traffic = ((spec.model or spec.name, 100.0),)
    fallback, sticky = spec.fallback, spec.stickiness
    return PoolModel(
        spec.name,
        traffic,
        mirror=_percents(status.mirror),
        window=status.window or "",
        slow_seconds=_slow_seconds(spec.slo),
        canary=status.canary or "",
        suspended=suspended,
        suspended_models=suspended_models,
        fallback=Fallback(fallback.model, fallback.cached) if fallback else None,
        stickiness=Stickiness(sticky.header.lower().encode(), sticky.user_field) if sticky else None,
    )


def _percents(shares: list[Traffic] | None) -> tuple[tuple[str, float], ...]:
    return tuple((share.model, share.percent) for share in shares or [] if share.percent > 0)


def _slow_seconds(slo: Slo | None) -> float | None:
    return measured(slo.latency_seconds.p95) if slo and slo.latency_seconds else None


def read_model(model: Model) -> ModelView:
    spec, status = model.spec, model.status or ModelStatus()
    defaults, limits = spec.defaults, spec.limits
    width, _, height = defaults.size.partition("x")
    performance = status.performance or []
    return ModelView(
        namespace=model.metadata.namespace,
        name=model.metadata.name,
        steps=defaults.steps,
        guidance_scale=defaults.guidance_scale,
        size=(int(width), int(height)),
        max_megapixels=limits.max_megapixels,
        max_steps=limits.max_steps,
        max_images=limits.max_images,
        capabilities=tuple(spec.capabilities) if spec.capabilities else None,
        adapters=tuple(adapter.name for adapter in spec.adapters or []),
        license=spec.license.spdx if spec.license else None,
        stalled=_message(status.conditions, "Stalled"),
        rate=_mean([p.seconds_per_megapixel_step for p in performance]),
        load_seconds=_mean([p.load_seconds for p in performance]),
        batches=_batches([size for p in performance for size in p.sizes or []]),
        reduced=read_reduced(spec.degraded),
    )


def _batches(sizes: Sequence[Size]) -> tuple[tuple[tuple[int, int], int], ...]:
    """Where several accelerators were measured, what all of them do."""
    least: dict[tuple[int, int], int] = {}
    for entry in sizes:
        width, _, height = entry.size.partition("x")
        most = measured(entry.max_batch)
        if most and width.isdigit() and height.isdigit():
            size = int(width), int(height)
            least[size] = min(least.get(size, int(most)), int(most))
    return tuple(sorted(least.items(), key=lambda item: item[0][0] * item[0][1]))


def measured(value: Any) -> float | None:
    """A measured amount as a number, None (no opinion) where it is absent, not a number, not finite or
    negative.

    Examples: "0.5" is 0.5; "nan", -1 and None are None.
    """
    if value is None:
        # Of most of a reply's headers, on every request: an exception would cost ten times as much.
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [v for v in map(measured, values) if v is not None]
    return sum(known) / len(known) if known else None


def _is_true(conditions: list[Condition] | None, kind: str) -> bool:
    return any(c.type == kind and c.status == "True" for c in conditions or [])


def _message(conditions: list[Condition] | None, kind: str) -> str | None:
    for condition in conditions or []:
        if condition.type == kind and condition.status == "True":
            return condition.message or kind
    return None


def _http_port(pod: Pod) -> int:
    for container in pod.spec.containers:
        for port in container.ports or []:
            if port.name == "http":
                return port.container_port
    return WORKER_PORT


def _unix_time(timestamp: str | None) -> float | None:
    """Seconds since the epoch; None (no opinion) where there is no time in RFC 3339."""
    try:
        return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
    except ValueError:
        return None

"""Models that draw nothing: because the spec says so, or because too few of their pictures passed the safety check.

They are kept in ``status.suspensions``, with what each had served, for the people who investigate. What the operator
suspended for safety ends by a person's word, or with the model: never because it is no longer measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from imagefleet_operator.plan.analysis import below_floor
from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.rollout_state import EntryState
from imagefleet_operator.plan.rollout_types import NameFigures, OnUnsafe, Served
from imagefleet_operator.plan.times import seconds_of
from imagefleet_operator.plan.types import Json, PoolModel, PoolSpec

REQUESTED, UNSAFE = "Requested", "Unsafe"
KEPT = 10
"""Suspensions that ended; those that hold are all kept."""
GRACE_SECONDS = 300.0
"""After a person lifted a suspension, the same pictures are in the short window for so long."""

COUNTING_SECONDS = 60.0
"""So long after a suspension began gateways are asked often what had been served until then."""

Suspensions = tuple[Json, ...]


def counting(suspension: Json, at: float) -> bool:
    """Whether it had just begun then, so that counts of the time before may still come in."""
    return at - seconds_of(suspension.get("since")) < COUNTING_SECONDS


def open_ones(suspensions: Iterable[Json], name: str, reason: str) -> list[Json]:
    """The suspensions of a name that hold."""
    return [s for s in suspensions if s["name"] == name and s["reason"] == reason and "until" not in s]


def unsafe_models(suspensions: Iterable[Json], name: str) -> dict[str, float]:
    """The models that are suspended for safety under a name, and since when."""
    return {s["model"]: seconds_of(s["since"]) for s in open_ones(suspensions, name, UNSAFE)}


def requested(spec: PoolSpec, entry: PoolModel) -> str:
    """Why the spec suspends an entry; empty where it does not."""
    if spec.suspend:
        return "spec.suspend is true."
    return f"spec.models[{entry.name}].suspend is true." if entry.suspend else ""


def models_in_use(entry: PoolModel, state: EntryState) -> tuple[str, ...]:
    """All models that the entry's requests may reach, or were to reach."""
    rollout = (state.rollout.to,) if state.rollout else ()
    return tuple(dict.fromkeys((state.stable, *rollout, *entry.references)))


def too_unsafe(entry: PoolModel, models: Iterable[str], figures: NameFigures | None) -> dict[str, str]:
    """The models whose pictures certainly pass too seldom, and how seldom. Nothing measured is no opinion."""
    floor = entry.slo.safety_pass_rate
    if floor is None or figures is None:
        return {}
    counted = {m: figures.short[m] for m in models if m in figures.short}
    return {
        m: f"{b.checked - b.unsafe} of {b.checked} pictures passed the safety check within 5 minutes; "
        f"the floor is {floor:g}."
        for m, b in counted.items()
        if below_floor(b.checked - b.unsafe, b.checked, floor)
    }


def suspend_requested(
    old: Suspensions, spec: PoolSpec, entry: PoolModel, serving: Sequence[str], now: float
) -> Suspensions:
    """Begin and end what the spec asks for. ``serving`` are the models that had a share of the requests."""
    why, held = requested(spec, entry), open_ones(old, entry.name, REQUESTED)
    if why and not held:
        return (*old, *(_begun(entry.name, model, REQUESTED, why, now) for model in serving))
    return old if why else _ended(old, lambda s: s in held, now)


def suspend_unsafe(old: Suspensions, entry: PoolModel, unsafe: Mapping[str, str], now: float) -> Suspensions:
    """Suspend what is too unsafe, where the SLO says so and nobody has just lifted it."""
    if entry.slo.on_unsafe is not OnUnsafe.SUSPEND:
        return old
    held = unsafe_models(old, entry.name)
    lifted = {
        s["model"]
        for s in old
        if s["name"] == entry.name
        and s["reason"] == UNSAFE
        and now - seconds_of(s.get("until")) < GRACE_SECONDS
    }
    new = {m: why for m, why in unsafe.items() if m not in held and m not in lifted}
    return (*old, *(_begun(entry.name, model, UNSAFE, why, now) for model, why in new.items()))


def lift(old: Suspensions, name: str, now: float) -> Suspensions:
    """A person lifts what was suspended for safety under a name."""
    return _ended(old, lambda s: s in open_ones(old, name, UNSAFE), now)


def let_go(
    old: Suspensions, name: str, models: Sequence[str], figures: NameFigures | None, now: float
) -> Suspensions:
    """End the suspensions of models that the entry is done with. Not while unsafe pictures of theirs are in the short
    window, or nobody knows: a model that comes back at once is still suspended."""
    if figures is None:
        return old
    counted = {model for model, budget in figures.short.items() if budget.unsafe}
    gone = [s for s in open_ones(old, name, UNSAFE) if s["model"] not in {*models, *counted}]
    return _ended(old, lambda s: s in gone, now)


def drop_entries(old: Suspensions, names: Iterable[str], now: float) -> Suspensions:
    """End the suspensions of names that the spec no longer has."""
    kept = set(names)
    return _ended(old, lambda s: s["name"] not in kept, now)


def trimmed(suspensions: Suspensions) -> Suspensions:
    """All that hold and the last ten that ended, in the order in which they began."""
    over = [s for s in suspensions if "until" in s]
    forgotten = sorted(over, key=lambda s: s["until"])[: max(0, len(over) - KEPT)]
    return tuple(s for s in suspensions if s not in forgotten)


def with_served(old: Suspensions, figures: Mapping[str, NameFigures]) -> Suspensions:
    """Fill in what callers got of each model before, and until its last request ended; sums only grow: a gateway that
    was restarted has forgotten, the callers have not."""
    return tuple(_with_served(s, figures.get(s["name"])) if "until" not in s else s for s in old)


def _with_served(suspension: Json, figures: NameFigures | None) -> Json:
    served = figures.served.get(suspension["model"], Served()) if figures else Served()
    since = [at for at in (served.first, seconds_of(suspension.get("servedSince"))) if at]
    last = max(served.last, seconds_of(suspension.get("lastServed")))
    return {
        **suspension,
        **({"servedSince": timestamp(min(since))} if since else {}),
        **({"lastServed": timestamp(last)} if last else {}),
        "requests": max(served.requests, suspension.get("requests", 0)),
        "pictures": max(served.pictures, suspension.get("pictures", 0)),
    }


def _begun(name: str, model: str, reason: str, message: str, now: float) -> Json:
    return {"name": name, "model": model, "reason": reason, "message": message, "since": timestamp(now)}


def _ended(old: Suspensions, over: Callable[[Json], bool], now: float) -> Suspensions:
    return tuple({**s, "until": timestamp(now)} if "until" not in s and over(s) else s for s in old)

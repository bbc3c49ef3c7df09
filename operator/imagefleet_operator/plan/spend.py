"""What a pool spends: the hours that its pods hold accelerators, and who had the work for it.

``status.spend`` is the memory. All that an operator needs to go on after any gap is in it: how much was spent up to a
moment, which pods there were, and how far each gateway's counters were added up.
"""

from collections.abc import Iterable, Mapping
from math import floor

from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.spend_types import HOUR, OTHER, BudgetSpec, Counted, Hold, Spend, Work
from imagefleet_operator.plan.times import microtime, seconds_of
from imagefleet_operator.plan.types import Json

DAY = 86_400.0
PENDING, HOLDING, ENDED = "Pending", "Holding", "Ended"
HOUR_DIGITS = 9
"""Of hours in a status: four microseconds."""
MOST_GATEWAYS = 256
"""Processes whose counters are remembered; those that speak are never forgotten."""


def day_of(now: float) -> float:
    """When the UTC day of ``now`` began. Worked example: ``day_of(90_000)`` is 86,400."""
    return floor(now / DAY) * DAY


def count(
    old: Spend | None,
    holds: Iterable[Hold],
    units: int,
    counts: Mapping[str, Counted],
    now: float,
) -> Spend:
    """What was spent up to ``now``. ``old`` is what was written last, None where nothing ever was; ``units`` the
    accelerators of a worker.

    A pod that was there and is gone ended at some time since: it counts up to now, never less than the truth. Where
    nothing was ever written, pods count from their start today, and gateways' counters from now on. Worked example:
    counted up to 100 s with pods a and b holding; at 110 s a is there, b is gone and c was scheduled at 104 s:
    10 + 10 + 6 = 26 s more, times ``units``.
    """
    now = now if old is None else max(now, old.counted_at)  # a clock that was set back takes nothing back
    start = day_of(now)
    held, workers = _held(old, holds, start, now)
    fresh = old is None or old.start < start
    seconds = held * units + (0.0 if fresh or old is None else old.seconds)
    drawn = _drawn(old, counts)
    by_model, by_tenant = _sums(drawn, 0), _sums(drawn, 1)
    models, tenants = ({}, {}) if fresh or old is None else (old.models, old.tenants)
    # At rest nothing is written: where there is no pod there is nothing to count.
    resting = old is not None and not fresh and not workers and not old.workers
    return Spend(
        start=start,
        counted_at=old.counted_at if old is not None and resting else now,
        seconds=seconds,
        models=_added(models, _fitting(by_model, seconds - sum(models.values()))),
        tenants=_added(tenants, {tenant: work for tenant, work in by_tenant.items() if tenant}),
        in_flight=_in_flight(counts),
        workers=workers,
        gateways=_gateways(old, counts, fresh),
    )


def _held(
    old: Spend | None, holds: Iterable[Hold], start: float, now: float
) -> tuple[float, Mapping[str, str]]:
    """Seconds that pods held since ``old``, of this day, and how far each is counted now."""
    known = old.workers if old is not None else {}
    counted_to = max(start, old.counted_at) if old is not None else start
    held, workers = 0.0, dict[str, str]()
    for hold in holds:
        state = known.get(hold.pod)
        workers[hold.pod] = PENDING if hold.since is None else HOLDING if hold.until is None else ENDED
        if hold.since is None or state == ENDED:
            continue
        # One that was not counted yet may have been scheduled before the count without our knowing.
        since = counted_to if state == HOLDING else max(start, hold.since)
        until = now if hold.until is None else min(now, hold.until)
        held += max(0.0, until - since)
    gone = sum(state != ENDED for pod, state in known.items() if pod not in workers)
    return held + gone * (now - counted_to), workers


def _drawn(old: Spend | None, counts: Mapping[str, Counted]) -> Work:
    """What was drawn since ``old``, over all gateways. Counters of a process only rise."""
    if old is None:
        return {}
    found: dict[tuple[str, str], float] = {}
    for gateway, said in counts.items():
        before = old.gateways.get(gateway, {})
        for key, work in said.drawn.items():
            found[key] = found.get(key, 0.0) + max(0.0, work - before.get(key, 0.0))
    return {key: work for key, work in found.items() if work > 0}


def _sums(work: Work, part: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, amount in work.items():
        found[key[part]] = found.get(key[part], 0.0) + amount
    return found


def _fitting(work: Mapping[str, float], room: float) -> Mapping[str, float]:
    """Requests that share steps count as if each had been drawn alone: together they are no more than was held.

    Worked example: 6 s and 3 s with room for 6 s are 4 s and 2 s.
    """
    total = sum(work.values())
    part = 1.0 if total <= room else max(0.0, room) / total
    return {model: seconds * part for model, seconds in work.items()}


def _added(to: Mapping[str, float], more: Mapping[str, float]) -> Mapping[str, float]:
    return {name: to.get(name, 0.0) + more.get(name, 0.0) for name in sorted(to.keys() | more.keys())}


def _in_flight(counts: Mapping[str, Counted]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for said in counts.values():
        for tenant, work in _sums(said.in_flight, 1).items():
            found[tenant] = found.get(tenant, 0.0) + work
    return {tenant: work for tenant, work in found.items() if tenant and work > 0}


def _gateways(old: Spend | None, counts: Mapping[str, Counted], fresh: bool) -> Mapping[str, Work]:
    """A gateway that is silent may speak again; those that were silent at a day's beginning are forgotten."""
    silent = {} if old is None or fresh else {g: w for g, w in old.gateways.items() if g not in counts}
    kept = dict(list(silent.items())[-MOST_GATEWAYS:])
    return kept | {gateway: said.drawn for gateway, said in counts.items()}


def read_spend(status: Json) -> Spend | None:
    """What ``status.spend`` says; None where it says nothing."""
    spend = status.get("spend")
    if not spend:
        return None
    return Spend(
        start=seconds_of(spend["resetsAt"]) - DAY,
        counted_at=seconds_of(spend["countedAt"]),
        seconds=spend["gpuHours"] * HOUR,
        models={m["model"]: m["busyGpuHours"] * HOUR for m in spend.get("models") or ()},
        tenants={t["name"]: t["gpuHours"] * HOUR for t in spend.get("tenants") or ()},
        in_flight={
            t["name"]: t["inFlightGpuHours"] * HOUR
            for t in spend.get("tenants") or ()
            if "inFlightGpuHours" in t
        },
        workers={w["pod"]: w["state"] for w in spend.get("workers") or ()},
        gateways={
            g["gateway"]: {(w["model"], w["tenant"]): w["workSeconds"] for w in g.get("work") or ()}
            for g in spend.get("gateways") or ()
        },
    )


def spend_status(spend: Spend, budget: BudgetSpec) -> Json:
    """``status.spend``. Of an ImageModel's hours, idle ones are shared out as the work was: with 6 hours held, 2 drawn
    by a and 1 by b, a had 4 of them and b 2."""
    hours = _hours(spend.seconds)
    names = sorted((spend.tenants.keys() | spend.in_flight.keys()) & {*budget.tenants, OTHER})
    gateways = [
        {
            "gateway": gateway,
            "work": [
                {"model": model, "tenant": tenant, "workSeconds": round(seconds, 6)}
                for (model, tenant), seconds in sorted(work.items())
            ],
        }
        for gateway, work in sorted(spend.gateways.items())
    ]
    lists = {
        "models": [_model(model, busy, spend, budget) for model, busy in sorted(spend.models.items())],
        "tenants": [_tenant(name, spend, budget) for name in names],
        "workers": [{"pod": pod, "state": state} for pod, state in sorted(spend.workers.items())],
        "gateways": gateways,
    }
    return {
        "period": timestamp(spend.start)[:10],
        "resetsAt": timestamp(spend.start + DAY),
        "countedAt": microtime(spend.counted_at),
        "gpuHours": hours,
        "busyGpuHours": _hours(spend.busy),
        **_cost(hours, budget),
        # A list that has lost its last entry is not stored as an empty one.
        **{key: entries for key, entries in lists.items() if entries},
    }


def _model(model: str, busy: float, spend: Spend, budget: BudgetSpec) -> Json:
    share = busy / spend.busy if spend.busy else 0.0
    hours = _hours(spend.seconds * share)
    return {"model": model, "busyGpuHours": _hours(busy), "gpuHours": hours, **_cost(hours, budget)}


def _tenant(name: str, spend: Spend, budget: BudgetSpec) -> Json:
    hours, under_way = _hours(spend.tenants.get(name, 0.0)), spend.in_flight.get(name, 0.0)
    more = {"inFlightGpuHours": _hours(under_way)} if under_way else {}
    return {"name": name, "gpuHours": hours, **more, **_cost(hours, budget)}


def _hours(seconds: float) -> float:
    return round(seconds / HOUR, HOUR_DIGITS)


def _cost(hours: float, budget: BudgetSpec) -> Json:
    return {} if budget.price is None else {"cost": round(hours * budget.price, 6)}

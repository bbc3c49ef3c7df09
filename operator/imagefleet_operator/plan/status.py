"""When a status that differs is worth a write."""

from collections.abc import Callable, Sequence

from imagefleet_operator.plan.suspension import counting
from imagefleet_operator.plan.times import seconds_of
from imagefleet_operator.plan.types import Json

DETAIL_SECONDS = 5.0
"""Between writes that change no more than counts, reasons and messages: a starting pool changes these many
times."""
NUMBER_SECONDS = 60.0
"""Between writes that change measured numbers alone."""
SERVED = ("servedSince", "lastServed", "requests", "pictures")
"""What a suspension tells of the time before."""
LEARNED = ("startSeconds", "loadSeconds", "learned")
"""Of ``scaling``: what is measured."""
DECIDED = ("mode", "desiredReplicas", "lastScaleTime")
"""Of ``scaling``: what is told at once."""
COUNTED = ("Cached",)
"""Conditions that say no more than the counts: on demand, models come and go at any time."""


def write_delay(old: Json, new: Json, since_last: float | None) -> float | None:
    """Seconds to wait before ``new`` is written over ``old``; None: they are the same.

    ``since_last`` is the time since the last write, None where there was none since the operator started.
    Changed conditions, models, shares of traffic, steps, verdicts and generations are written at once. Worked example:
    only ``replicas`` changed and the last write was 2 s ago: 3.
    """
    if old == new:
        return None
    least = _least_interval(old, new)
    return 0.0 if since_last is None else max(0.0, least - since_last)


def _least_interval(old: Json, new: Json) -> float:
    if _measured_apart(old) == _measured_apart(new):
        return NUMBER_SECONDS
    if _essence(old) == _essence(new):
        return DETAIL_SECONDS
    return 0.0


def _measured_apart(status: Json) -> Json:
    """The status with measured numbers left out; that there are any, and of which accelerators and models, stays."""
    devices = status.get("accelerator") or {}
    speeds = status.get("performance") or ()
    shape = {
        "accelerator": (devices.get("name"), devices.get("count")),
        "performance": [
            (entry["accelerator"], sorted(entry), _names(entry.get("sizes"))) for entry in speeds
        ],
    }
    lists: dict[str, Callable[[Json], Json]] = {
        "models": _uncounted,
        "suspensions": _unserved,
    }
    listed = {key: [part(entry) for entry in status[key]] for key, part in lists.items() if key in status}
    scaling = {"scaling": _without(status["scaling"], *LEARNED)} if "scaling" in status else {}
    # Of what is spent, only which pods there are must not be forgotten: an operator that starts counts from there.
    spend = status.get("spend") or {}
    return {**status, **shape, **listed, **scaling, "spend": (spend.get("period"), spend.get("workers"))}


def _uncounted(entry: Json) -> Json:
    """An entry without what gateways count all the time."""
    trials = [
        {**trial, "arms": [(arm["model"], sorted(arm)) for arm in trial.get("arms") or ()]}
        for trial in entry.get("experiments") or ()
    ]
    return {**entry, "budget": sorted(entry.get("budget") or ()), "experiments": trials}


def _unserved(suspension: Json) -> Json:
    """A suspension without what is served in spite of it, from a gateway's cache; what was served before is news."""
    served_later = not counting(suspension, seconds_of(suspension.get("lastServed")))
    return _without(suspension, *SERVED) if served_later else suspension


def _essence(status: Json) -> tuple[Json, set[tuple[str, str]]]:
    """What is worth a write at once."""
    left_out = (
        "accelerator",
        "performance",
        "replicas",
        "readyReplicas",
        "copies",
        "conditions",
        "warm",
        "prePull",
    )
    apart = _measured_apart(status)
    rest = {key: value for key, value in apart.items() if key not in left_out}
    if "models" in rest:
        rest["models"] = [_told_at_once(entry) for entry in rest["models"]]
    if "scaling" in rest:
        rest["scaling"] = {key: rest["scaling"].get(key) for key in DECIDED}
    if "budget" in rest:
        rest["budget"] = _without(rest["budget"], "message")
    if "suspensions" in rest:
        rest["suspensions"] = [_without(entry, *SERVED) for entry in rest["suspensions"]]
    told = (c for c in status.get("conditions") or () if c["type"] not in COUNTED)
    return rest, {(c["type"], c["status"]) for c in told}


def _told_at_once(entry: Json) -> Json:
    """An entry without messages, and with no more of its analysis than the verdicts."""
    rollout = entry.get("rollout") or {}
    analysis = rollout.get("analysis") or {}
    found = [(f["metric"], f["verdict"]) for f in analysis.get("metrics") or ()]
    trials = [_without(trial, "message", "arms") for trial in entry["experiments"]]
    stand = {**_without(rollout, "message"), "analysis": (analysis.get("verdict"), found)}
    return {**_without(entry, "budget"), "rollout": stand, "experiments": trials}


def _without(value: Json, *keys: str) -> Json:
    return {key: part for key, part in value.items() if key not in keys}


def _names(sizes: Sequence[Json] | None) -> list[str]:
    return [entry["size"] for entry in sizes or ()]

"""What happened to a pool's rollouts, experiments and suspensions between two statuses, for ``kubectl describe``."""

from collections.abc import Iterable, Iterator, Mapping

from imagefleet_operator.plan.budget_story import budget_story
from imagefleet_operator.plan.conditions import News, find
from imagefleet_operator.plan.types import Json

PASSED = "Passed"
"""The verdict of an analysis that found the canary no worse."""
BLOCKED = ("BurningErrorBudget", "Inconclusive")
"""Why a rollout waits that someone should look into."""


def story(old: Json, new: Json) -> tuple[News, ...]:
    """The news of a status, in the order in which they happened: what was said, what ended, what began, how it went on.

    A first status tells what it finds. Steps that were gone through in one pass are told as one.
    """
    before, after = _by_name(old), _by_name(new)
    news = [*_command(old, new), *_suspensions(old, new), *_endings(old, new, before), *_spot(old, new)]
    news += _scaling(old, new)
    news += budget_story(old, new)
    for name, entry in after.items():
        news += _rollout(name, before.get(name, {}), entry)
        news += _experiments(name, before.get(name, {}), entry)
    return tuple(news)


def _by_name(status: Json) -> dict[str, Json]:
    return {entry["name"]: entry for entry in status.get("models") or () if "name" in entry}


def _command(old: Json, new: Json) -> Iterator[News]:
    said = new.get("command")
    if said and said != old.get("command"):
        applied = said["outcome"] == "Applied"
        yield News(
            f"Command{said['outcome']}", f"{said['value']}: {said['message']}", not applied, said["value"]
        )


def _scaling(old: Json, new: Json) -> Iterator[News]:
    """The decisions that changed how many workers there should be."""
    known = (old.get("scaling") or {}).get("decisions") or ()
    for made in (new.get("scaling") or {}).get("decisions") or ():
        if made not in known:
            reason = "ScaledUp" if made["to"] > made["from"] else "ScaledDown"
            yield News(reason, f"{made['reason']}: {made['message']}", False, made["time"])


def _suspensions(old: Json, new: Json) -> Iterator[News]:
    known = {_key(s): s for s in old.get("suspensions") or ()}
    for found in new.get("suspensions") or ():
        told = f"{found['name']}: {found['model']}"
        if _key(found) not in known and "until" not in found:
            yield News(
                "ModelSuspended", f"{told} draws nothing more: {found['message']}", True, found["since"]
            )
        elif "until" in found and "until" not in known.get(_key(found), {"until": ""}):
            yield News("ModelResumed", f"{told} may draw again.", False, found["until"])


def _key(suspension: Json) -> tuple[str, ...]:
    return tuple(suspension[key] for key in ("name", "model", "reason", "since"))


def _spot(old: Json, new: Json) -> Iterator[News]:
    """Workers on demand stand in, or no longer."""
    before, after = find(old, "SpotAvailable"), find(new, "SpotAvailable")
    lacked, lacks = (found is not None and found["status"] == "False" for found in (before, after))
    if after is not None and lacks != lacked:
        yield News(after["reason"], after["message"], lacks, after["lastTransitionTime"])


def _endings(old: Json, new: Json, before: Mapping[str, Json]) -> Iterator[News]:
    """The history has the latest at its end, and forgets the oldest. What the last analysis found may be told there
    alone: with it the rollout can end in the same pass."""
    known = list(old.get("history") or ())
    for ended in (e for e in new.get("history") or () if e not in known):
        was = _verdict(_active(before.get(ended["name"], {})))
        if ended["verdict"] == "Promoted" and ended.get("analysis") == PASSED != was:
            yield _passed(ended["name"], ended["to"], ended["from"], ended["endedAt"])
        told = f"{ended['name']}: {ended['from']} to {ended['to']}: {ended['message']}"
        yield News(f"Rollout{ended['verdict']}", told, ended["verdict"] == "Aborted", ended["endedAt"])


def _rollout(name: str, before: Json, after: Json) -> Iterator[News]:
    was, stands = _active(before), _active(after)
    if not stands:
        return
    began = stands.get("startedAt")
    if was.get("startedAt") != began or before.get("canary") != after["canary"]:
        was = {}
        by = f", named by {stands['by']}" if "by" in stands else ""
        yield News(
            "RolloutStarted", f"{name}: {after['stable']} to {after['canary']}{by}.", False, str(began)
        )
    since = str(stands.get("stepStartedAt"))
    if _verdict(stands) == PASSED != _verdict(was):
        yield _passed(name, after["canary"], after["stable"], since)
    yield from _exposure(name, before if was else {}, after, was, since)
    yield from _phase(name, was, stands)


def _passed(name: str, canary: str, stable: str, since: str) -> News:
    return News("AnalysisPassed", f"{name}: {canary} is no worse than {stable}.", False, since)


def _active(entry: Json) -> Json:
    rollout: Json = entry.get("rollout") or {}
    return rollout if "canary" in entry else {}


def _verdict(rollout: Json) -> str:
    return str((rollout.get("analysis") or {}).get("verdict", ""))


def _exposure(name: str, before: Json, after: Json, was: Json, since: str) -> Iterator[News]:
    weight = after["rollout"].get("weight", 0)
    if weight != was.get("weight", 0):
        at_once = "; no worker has room for both, so it gets all" if after["rollout"].get("allAtOnce") else ""
        yield News(
            "WeightSet", f"{name}: {after['canary']} gets {weight} % of the requests{at_once}.", False, since
        )
    mirrored, was_mirrored = (_mirrored(entry, after["canary"]) for entry in (after, before))
    if mirrored != was_mirrored:
        yield News(
            "MirrorSet", f"{name}: {after['canary']} draws copies of {mirrored} % of them.", False, since
        )


def _mirrored(entry: Json, model: str) -> int:
    return next((int(m["percent"]) for m in entry.get("mirror") or () if m["model"] == model), 0)


def _phase(name: str, was: Json, stands: Json) -> Iterator[News]:
    paused, was_paused = (r.get("phase") == "Paused" or r.get("reason") in BLOCKED for r in (stands, was))
    since = str(stands.get("phaseStartedAt"))
    if paused and (not was_paused or was.get("reason") != stands.get("reason")):
        warning = stands.get("reason") in BLOCKED
        yield News("RolloutPaused", f"{name}: {stands.get('message', '')}", warning, since)
    elif was_paused and not paused:
        yield News("RolloutResumed", f"{name}: it goes on ({stands['phase']}).", False, since)


def _experiments(name: str, before: Json, after: Json) -> Iterator[News]:
    known = {t["name"]: t for t in before.get("experiments") or ()}
    found = {t["name"]: t for t in after.get("experiments") or ()}
    for trial in found.values():
        was = known.get(trial["name"], {}).get("phase")
        if trial["phase"] == "Running" and was != "Running":
            told = f"{name}: {trial['name']}: {_shares(trial)}."
            yield News("ExperimentStarted", told, False, str(trial.get("startedAt")))
        if trial["phase"] == "Ended" and was != "Ended":
            yield News(
                "ExperimentEnded", f"{name}: {trial['name']}: its time is over.", False, trial["endsAt"]
            )
    for trial in known.values():
        if trial["phase"] == "Running" and trial["name"] not in found:
            told = f"{name}: {trial['name']} is no longer in the spec."
            yield News("ExperimentEnded", told, False, str(trial.get("startedAt")))


def _shares(trial: Json) -> str:
    arms: Iterable[Json] = trial.get("arms") or ()
    return ", ".join(f"{arm['percent']} % {arm['model']}" for arm in arms if "percent" in arm) or "it begins"

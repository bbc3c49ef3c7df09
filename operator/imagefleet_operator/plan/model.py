"""The plan of one model: whether its files are to be checked, and its status."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from imagefleet_operator.plan import conditions, verification
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.copies import cached, copies_status
from imagefleet_operator.plan.performance import performances
from imagefleet_operator.plan.types import UNSUPPORTED, Json, ModelObserved
from imagefleet_operator.plan.verification import Finding


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All that follows from what is observed of a model."""

    verify: bool = False
    """Whether the verification Job is to exist: it is made where it does not, and never changed."""
    status: Json = field(default_factory=dict)


def plan_model(observed: ModelObserved, now: float) -> ModelPlan:
    """What to do for a model. ``now`` is the time in seconds since the epoch.

    Source, adapters and pipeline of a model are immutable, so that what was verified once stays verified. A failed
    check is done again when its Job has gone, which its time to live sees to: that is the back-off.
    """
    model = observed.model
    if model.spec is None:
        finding = Finding(Verdict(False, "SpecInvalid", model.error), final=True)
        return ModelPlan(status=_status(observed, finding, now))
    finding = verification.find(observed)
    unknown = not finding.verdict.ok and not verification.results(observed) and not observed.refusals
    return ModelPlan(verify=unknown and observed.job is None, status=_status(observed, finding, now))


def _status(observed: ModelObserved, finding: Finding, now: float) -> Json:
    model, verdict = observed.model, finding.verdict
    old = model.status
    performance = performances(old.get("performance") or (), observed.copies or ())
    ready = _ready(observed, performance, verdict.message) if verdict.ok else verdict
    stalled = finding.final or (bool(verdict.ok) and not ready.ok)
    verdict_of = {
        "Ready": ready,
        "Verified": verdict,
        "Cached": _cached(observed),
        "Reconciling": None if ready.ok or stalled else Verdict(True, "Progressing", verdict.message),
        "Stalled": Verdict(True, ready.reason, ready.message) if stalled else None,
    }
    kept = {key: old[key] for key in verification.FACTS if key in old and verdict.ok}
    copies = (
        old.get("copies", copies_status(())) if observed.copies is None else copies_status(observed.copies)
    )
    return {
        "observedGeneration": model.generation,
        **kept,
        **finding.facts,
        **({"performance": performance} if performance else {}),
        "copies": copies,
        "conditions": conditions.merged(old.get("conditions") or (), verdict_of, model.generation, now),
    }


def _ready(observed: ModelObserved, performance: Sequence[Json], good: str) -> Verdict:
    """Of a verified model: it is not ready where no accelerator that is to hold it can do what ``spec.pipeline``
    asks. One that can is enough, and so is one that has not tried yet. Where no worker is to hold it, or not every
    worker has been asked, what was found stands."""
    before = conditions.find(observed.model.status, "Ready")
    if not observed.copies and before is not None and before.get("reason") == UNSUPPORTED:
        return Verdict(False, UNSUPPORTED, before["message"])
    asked = {copy.accelerator for copy in observed.copies or ()}
    refused = {
        entry["accelerator"]: f"{entry['accelerator']}: {entry['unsupported']}"
        for entry in performance
        if entry["accelerator"] in asked and "unsupported" in entry
    }
    why = " ".join(refused.values())
    if asked and asked == refused.keys():
        return Verdict(False, UNSUPPORTED, why)
    return Verdict(True, "Ready", f"{good} Not on every accelerator: {why}" if why else good)


def _cached(observed: ModelObserved) -> Verdict | None:
    """While not every worker has been asked, what was said stands."""
    if observed.copies is not None:
        return cached(observed.copies, copies_status(observed.copies))
    before = conditions.find(observed.model.status, "Cached")
    if before is None:
        return None
    return Verdict(before["status"] == "True", before["reason"], before["message"])

"""The plan of one model: whether its files are to be checked, and its status."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from imagefleet_operator.api.quantity import bytes_quantity, quantity_bytes
from imagefleet_operator.plan import conditions
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.rounding import settled
from imagefleet_operator.plan.types import Copy, JobState, Json, ModelObserved, ModelReport

FAILURES = (
    "SourceNotFound",
    "NotAPipeline",
    "PickleRefused",
    "NoWeights",
    "UnsafePath",
    "SourceUnreadable",
    "DigestMismatch",
    "ClassMismatch",
)
"""What a check can find wrong with the files. Any other word in a report is not believed."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All that follows from what is observed of a model."""

    verify: bool = False
    """Whether the verification Job is to exist: it is made where it does not, and never changed."""
    status: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of the files: the verdict, and where it is good their digest, size and class."""

    verdict: Verdict
    facts: Json = field(default_factory=dict)
    final: bool = False
    """A failure that does not mend by waiting."""


def plan_model(observed: ModelObserved, now: float) -> ModelPlan:
    """What to do for a model. ``now`` is the time in seconds since the epoch.

    Source and pipeline of a model are immutable, so that what was verified once stays verified. A failed
    check is done again when its Job has gone, which its time to live sees to: that is the back-off.
    """
    model = observed.model
    if model.spec is None:
        finding = Finding(Verdict(False, "SpecInvalid", model.error), final=True)
        return ModelPlan(status=_status(observed, finding, now))
    finding = _finding(observed)
    unknown = not finding.verdict.ok and not _results(observed) and not observed.refusals
    return ModelPlan(verify=unknown and observed.job is None, status=_status(observed, finding, now))


def is_verified(observed: ModelObserved) -> bool:
    """Whether these files were checked before and found good."""
    status, spec = observed.model.status, observed.model.spec
    digest = status.get("digest")
    return (
        conditions.is_true(status, "Verified")
        and bool(digest)
        and spec is not None
        and spec.digest in (None, digest)
    )


def _finding(observed: ModelObserved) -> Finding:
    if is_verified(observed):
        return Finding(_good(observed.model.status["digest"]))
    for refusal in observed.refusals:
        return Finding(Verdict(False, refusal.reason, refusal.message), final=True)
    for result in _results(observed):
        return _from_result(result)
    state = observed.job.state if observed.job else None
    if isinstance(state, JobState) and state.failed:
        detail = next((p.trouble.message for p in observed.pods if p.trouble), state.failed)
        return Finding(Verdict(False, "VerificationFailed", detail), final=True)
    return _pending(observed)


def _pending(observed: ModelObserved) -> Finding:
    """Nothing new is known: what an earlier check found stands until this one has ended."""
    before = conditions.find(observed.model.status, "Verified")
    if before is not None and before.get("reason") in (*FAILURES, "VerificationFailed"):
        return Finding(Verdict(False, before["reason"], before["message"]), final=True)
    trouble = next((p.trouble for p in observed.pods if p.trouble), None)
    message = trouble.message if trouble else "The files are being checked."
    return Finding(Verdict(False, "VerificationPending", message))


def _good(digest: str) -> Verdict:
    return Verdict(True, "Verified", f"The files are {digest}.")


def _results(observed: ModelObserved) -> list[Json]:
    """What the pods of the Job as it is to be now reported; what cannot be read is no report."""
    found = []
    for pod in observed.pods:
        if pod.job == observed.job_name and pod.result:
            try:
                result = json.loads(pod.result)
            except ValueError:
                continue
            if isinstance(result, dict) and _believable(result):
                found.append(result)
    return found


def _believable(result: Json) -> bool:
    if result.get("ok") is True:
        return isinstance(result.get("digest"), str) and isinstance(result.get("bytes"), int)
    return result.get("ok") is False and result.get("reason") in FAILURES


def _from_result(result: Json) -> Finding:
    if result["ok"]:
        facts = {key: result[key] for key in ("digest", "bytes", "className") if result.get(key)}
        return Finding(_good(result["digest"]), facts)
    message = str(result.get("message") or conditions.REASONS[result["reason"]])
    return Finding(Verdict(False, result["reason"], message), final=True)


def _status(observed: ModelObserved, finding: Finding, now: float) -> Json:
    model, verdict = observed.model, finding.verdict
    old = model.status
    moving = not verdict.ok and not finding.final
    verdict_of = {
        "Ready": Verdict(True, "Ready", verdict.message) if verdict.ok else verdict,
        "Verified": verdict,
        "Reconciling": Verdict(True, "Progressing", verdict.message) if moving else None,
        "Stalled": Verdict(True, verdict.reason, verdict.message) if finding.final else None,
    }
    kept: Json = {key: old[key] for key in ("digest", "bytes", "className") if key in old and verdict.ok}
    performance = performances(old.get("performance") or (), observed.copies or ())
    return {
        "observedGeneration": model.generation,
        **kept,
        **finding.facts,
        **({"performance": performance} if performance else {}),
        "copies": old.get("copies", _copies(())) if observed.copies is None else _copies(observed.copies),
        "conditions": conditions.merged(old.get("conditions") or (), verdict_of, model.generation, now),
    }


def _copies(copies: Sequence[Copy]) -> Json:
    """Workers that hold it now; that hold it, load it or should; and that failed to."""
    states = [c.report.state if c.report else "" for c in copies]
    wanted = [
        c.wanted_pinned or state in ("Loading", "Resident") for c, state in zip(copies, states, strict=True)
    ]
    return {"available": states.count("Resident"), "total": sum(wanted), "failed": states.count("Failed")}


def performances(old: Sequence[Json], copies: Iterable[Copy]) -> list[Json]:
    """``status.performance``: per accelerator the median of what workers measure; what nobody measures now
    stays.

    Numbers move only when they are 10 % off, so that noise writes nothing.
    """
    before = {entry["accelerator"]: entry for entry in old}
    reports: dict[str, list[ModelReport]] = {}
    for copy in copies:
        if copy.report is not None:
            reports.setdefault(copy.accelerator, []).append(copy.report)
    entries = {name: _performance(name, before.get(name, {}), found) for name, found in reports.items()}
    merged = before | {name: entry for name, entry in entries.items() if len(entry) > 1}
    return [merged[name] for name in sorted(merged)]


def _performance(name: str, old: Json, reports: Sequence[ModelReport]) -> Json:
    step = _settled(old.get("secondsPerMegapixelStep"), [r.seconds_per_megapixel_step for r in reports])
    load = _settled(old.get("loadSeconds"), [r.load_seconds for r in reports])
    known = quantity_bytes(old["memory"]) if "memory" in old else None
    memory = _settled(known, [r.memory_bytes for r in reports])
    entry: Json = {"accelerator": name}
    if step is not None:
        entry["secondsPerMegapixelStep"] = step
    if load is not None:
        entry["loadSeconds"] = load
    if memory is not None:
        entry["memory"] = old["memory"] if memory == known else bytes_quantity(int(memory))
    return entry


def _settled(old: float | None, values: Sequence[float | int | None]) -> float | None:
    known = [v for v in values if v is not None]
    return settled(old, median(known) if known else None, within=0.1, digits=2)

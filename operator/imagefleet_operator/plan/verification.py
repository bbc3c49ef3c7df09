"""What is known of a model's files: from its verification Job, and from what an earlier one found."""

import json
from dataclasses import dataclass, field

from imagefleet_operator.plan import conditions
from imagefleet_operator.plan.cluster_types import JobState
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.types import Json, ModelObserved, ModelSpec, Parent

MENDING = ("FetchFailed",)
"""Findings that waiting may mend: the check is done again by itself."""
FAILURES = (
    "SourceNotFound",
    "NotAPipeline",
    "PickleRefused",
    "NoWeights",
    "UnsafePath",
    "SourceUnreadable",
    "DigestMismatch",
    "ClassMismatch",
    "AccessDenied",
    "TooLarge",
    "CacheFull",
    "AdapterInvalid",
    *MENDING,
)
"""What a check can find wrong with the files. Any other word in a report is not believed."""
FACTS = ("digest", "bytes", "className", "adapters")
"""What a good check finds out, by its names in the report and in the status."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of the files: the verdict, and where it is good what was found out of them."""

    verdict: Verdict
    facts: Json = field(default_factory=dict)
    final: bool = False
    """A failure that does not mend by waiting."""


def is_verified(model: Parent[ModelSpec]) -> bool:
    """Whether the files as the spec has them, those of its adapters too, were checked and found good."""
    status, spec = model.status, model.spec
    if spec is None or not status.get("digest") or not conditions.is_true(status, "Verified"):
        return False
    adapters = {adapter["name"] for adapter in status.get("adapters") or ()}
    return spec.source.digest in (None, status["digest"]) and adapters >= spec.adapters.keys()


def find(observed: ModelObserved) -> Finding:
    """What is known of the files now."""
    if is_verified(observed.model):
        return Finding(_good(observed.model.status["digest"]))
    for refusal in observed.refusals:
        return Finding(Verdict(False, refusal.reason, refusal.message), final=True)
    for result in results(observed):
        return _from_result(result, observed.model)
    state = observed.job.state if observed.job else None
    if isinstance(state, JobState) and state.failed:
        detail = next((p.trouble.message for p in observed.pods if p.trouble), state.failed)
        return Finding(Verdict(False, "VerificationFailed", detail), final=True)
    return _pending(observed)


def _pending(observed: ModelObserved) -> Finding:
    """Nothing new is known: what an earlier check found stands until this one has ended."""
    before = conditions.find(observed.model.status, "Verified")
    if before is not None and before.get("reason") in (*FAILURES, "VerificationFailed"):
        return _bad(before["reason"], before["message"])
    trouble = next((p.trouble for p in observed.pods if p.trouble), None)
    return Finding(Verdict(False, "VerificationPending", trouble.message if trouble else _work(observed)))


def _work(observed: ModelObserved) -> str:
    if observed.job is not None and not any(pod.job == observed.job_name for pod in observed.pods):
        # The Job's status does not say that the API server refuses its pod (quota, admission, no such account).
        return (
            "The check's pod is not there yet; where this lasts, "
            f"`kubectl describe job {observed.job_name}` says why."
        )
    spec = observed.model.spec
    fetched = spec is not None and any(source.remote for source in spec.sources)
    return "The files are being fetched and checked." if fetched else "The files are being checked."


def _good(digest: str) -> Verdict:
    return Verdict(True, "Verified", f"The files are {digest}.")


def _bad(reason: str, message: str) -> Finding:
    return Finding(Verdict(False, reason, message), final=reason not in MENDING)


def results(observed: ModelObserved) -> list[Json]:
    """What the pods of the Job as it is to be now reported; what cannot be read is no report."""
    found = []
    for pod in observed.pods:
        if pod.job == observed.job_name and pod.result:
            try:
                result = json.loads(pod.result)
            except ValueError:
                continue
            if isinstance(result, dict) and _believable(result, observed.model.spec):
                found.append(result)
    return found


def _believable(result: Json, spec: ModelSpec | None) -> bool:
    if result.get("ok") is True:
        wanted = spec.adapters.keys() if spec is not None else set()
        known = isinstance(result.get("digest"), str) and isinstance(result.get("bytes"), int)
        return known and set(_adapters(result)) >= wanted
    return result.get("ok") is False and result.get("reason") in FAILURES


def _adapters(result: Json) -> dict[str, Json]:
    """The adapters of a report by name; one without a digest was not checked."""
    listed = result.get("adapters")
    entries = listed if isinstance(listed, list) else []
    return {
        str(entry["name"]): {key: entry[key] for key in ("name", "digest", "bytes") if key in entry}
        for entry in entries
        if isinstance(entry, dict) and entry.get("name") and isinstance(entry.get("digest"), str)
    }


def _from_result(result: Json, model: Parent[ModelSpec]) -> Finding:
    if result["ok"]:
        found = {**result, "adapters": list(_adapters(result).values())}
        return Finding(_good(result["digest"]), {key: found[key] for key in FACTS if found.get(key)})
    message = str(result.get("message") or conditions.REASONS[result["reason"]])
    return _bad(result["reason"], message + (_secrets(model) if result["reason"] == "AccessDenied" else ""))


def _secrets(model: Parent[ModelSpec]) -> str:
    """Which Secrets there should be: one that is missing is mounted as an empty folder, which says nothing."""
    sources = model.spec.sources if model.spec is not None else ()
    names = sorted({source.secret for source in sources if source.secret})
    if not names:
        return " (the spec names no Secret: make one and name it in secretRef, or let the pods' identity read it)"
    return f" (credentials are read from Secret {', '.join(names)} of namespace {model.namespace})"

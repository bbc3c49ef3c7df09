"""Conditions after the Kubernetes conventions and kstatus: their reasons, and how they change.

``Reconciling`` and ``Stalled`` exist only while they hold; the others always do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from imagefleet_operator.plan.types import Json

MESSAGE_LIMIT = 1024
"""Bytes are not counted: the API allows 32,768 characters, and people read a line or two."""

REASONS: dict[str, str] = {
    "Ready": "Everything that the spec asks for is there.",
    "ScaledToZero": "There are to be no workers: spec.replicas is 0, or nobody has asked for anything for long.",
    "SpecInvalid": "The spec cannot be read; the message names the field.",
    "Progressing": "Work is under way and needs no help.",
    "ChildNotOwned": "An object that the pool or model needs has the same name and belongs to someone else.",
    "ChildRejected": "The API server refused an object that the pool or model needs.",
    "WorkersReady": "As many workers are ready as the spec asks for.",
    "WorkersStarting": "Workers are being created, started or replaced.",
    "WorkersUnschedulable": "The scheduler finds no node for a worker.",
    "WorkerImageUnavailable": "A worker's image cannot be pulled.",
    "WorkersCrashing": "A worker's container ends again and again.",
    "WorkerConfigInvalid": "A worker's container cannot be made from its pod template.",
    "WorkersRejected": "The API server refuses the pods (quota, admission).",
    "WorkersUnreachable": "A ready worker does not answer the operator.",
    "ProgressDeadlineExceeded": "The Deployment has made no progress within its deadline.",
    "ModelsPlaced": "Every model is resident on as many workers as it asks for.",
    "NoWorkers": "No worker is ready to hold a model.",
    "TooFewWorkers": "A model asks for more workers (minResident) than the pool has (replicas).",
    "ModelNotFound": "A model of the pool does not exist in the pool's namespace.",
    "ModelNotReady": "A model of the pool has not been verified (yet).",
    "ModelLoading": "A model is being loaded on as many workers as it asks for.",
    "ModelLoadFailed": "A worker could not load a model; the message is the worker's.",
    "ModelDoesNotFit": "The ready workers' memory cannot hold as many copies as a model asks for.",
    "Suspended": "A model answers nobody: the spec or its unsafe pictures suspended it; the message says which.",
    "NoRollout": "No entry is on its way to another model.",
    "RolloutProgressing": "An entry is on its way to another model; the message says how far.",
    "RolloutPaused": "A rollout waits for its step's time, or for a person.",
    "RolloutBlocked": "A rollout waits because the error budget burns, or because figures do not decide.",
    "RolloutAborted": "A new model was found wanting, or somebody said so; the stable one has all requests.",
    "SafetyHealthy": "No model's pictures pass the safety check too seldom.",
    "Unsafe": "A model's pictures pass the safety check too seldom.",
    "SpotAvailable": "Every spot worker has a node, or has looked for one for a short time only.",
    "OnDemandFallback": "Workers on demand stand in for spot workers that find no node.",
    "PrePulled": "Every node where workers may run has what they need.",
    "PrePulling": "Nodes fetch the image, or the files of models.",
    "NoOpinion": "No picture has been checked lately.",
    "Deciding": "The number of workers follows the demand.",
    "External": "spec.replicas is followed, as somebody else writes it.",
    "ReplicasOutOfBounds": "spec.replicas is outside of minReplicas and maxReplicas, which hold.",
    "Bounded": "minReplicas and maxReplicas leave nothing to decide.",
    "MetricsAbsent": "No gateway has said anything yet: the number of workers stays as it is.",
    "MetricsStale": "Gateways or workers have been silent for a minute: the number of workers stays as it is.",
    "WithinBudget": "The pool has what it asks for within its budget.",
    "BudgetThrottled": "The pool has fewer workers than asked for, so that its budget holds.",
    "BudgetDegraded": "Pictures are smaller than asked for, so that the budget lasts longer.",
    "BudgetExhausted": "The day's budget is used up: there are no workers until the day ends.",
    "Verified": "The files are what the spec says, and safe to load.",
    "VerificationPending": "The files are being checked, or wait for a place where they can be.",
    "VerificationFailed": "The check itself could not be done; it is tried again.",
    "SourceNotFound": "There is nothing at the source's URI.",
    "NotAPipeline": "The folder holds no diffusers pipeline.",
    "PickleRefused": "The folder holds files that could run code when loaded.",
    "NoWeights": "The folder holds no safetensors file.",
    "UnsafePath": "The folder holds a link that leads out of it.",
    "SourceUnreadable": "A file may not be read by the user as whom workers run.",
    "DigestMismatch": "The files are not those of the digest.",
    "ClassMismatch": "The pipeline in the folder is not of the class that the spec names.",
    "AccessDenied": "The source refuses the credentials, or asks for some.",
    "FetchFailed": "The files could not be fetched; it is tried again.",
    "TooLarge": "The source holds more than may be fetched.",
    "CacheFull": "The node cache has no room for the files.",
    "AdapterInvalid": "An adapter's folder does not hold one LoRA in safetensors.",
    "OptionUnsupported": "No accelerator that is to hold the model can do what spec.pipeline asks.",
    "Cached": "Every worker that should hold the model does.",
    "Fetching": "Workers fetch the files; the message says how far they are.",
    "NoCopies": "No worker holds the model or should.",
}
"""Every reason with what it means; ``docs/operator.md`` lists the same."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: its condition's status, reason and message. ``ok`` None is written as
    ``Unknown``."""

    ok: bool | None
    reason: str
    message: str

    @property
    def status(self) -> str:
        """``True``, ``False`` or ``Unknown``."""
        return "Unknown" if self.ok is None else str(self.ok)


def truncated(message: str, limit: int = MESSAGE_LIMIT) -> str:
    """One line of at most ``limit`` characters."""
    line = " ".join(message.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def timestamp(now: float) -> str:
    """Seconds since the epoch as the API writes times, e.g. ``timestamp(0)`` is ``1970-01-01T00:00:00Z``."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merged(
    old: Sequence[Json], verdicts: dict[str, Verdict | None], generation: int, now: float
) -> list[Json]:
    """The conditions to write, in the order of ``verdicts``; a type whose verdict is None is left out.

    ``lastTransitionTime`` moves only when the status does.
    """
    before = {c.get("type"): c for c in old}
    return [
        _condition(kind, verdict, before.get(kind), generation, now)
        for kind, verdict in verdicts.items()
        if verdict is not None
    ]


def _condition(kind: str, verdict: Verdict, old: Json | None, generation: int, now: float) -> Json:
    same = old is not None and old.get("status") == verdict.status and "lastTransitionTime" in old
    return {
        "type": kind,
        "status": verdict.status,
        "reason": verdict.reason,
        "message": truncated(verdict.message),
        "observedGeneration": generation,
        "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else timestamp(now),
    }


def find(status: Json, kind: str) -> Json | None:
    """The condition of that type, or None."""
    conditions: Iterable[Any] = status.get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), None)


def is_true(status: Json, kind: str) -> bool:
    """Whether the condition is there and holds."""
    condition = find(status, kind)
    return condition is not None and condition.get("status") == "True"


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that came, went or changed its status: worth an Event."""

    kind: str
    status: str
    reason: str
    message: str

    @property
    def warning(self) -> bool:
        """Whether it is bad news: ``Stalled`` came, or anything else stopped holding."""
        return (self.status == "True") == (self.kind == "Stalled")

    @property
    def note(self) -> str:
        """For people."""
        return f"{self.kind} is {self.status}: {self.message}"


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened and is worth an Event."""

    reason: str
    note: str
    warning: bool
    since: str
    """When, as the status has it: the same thing at another time is news again."""


TOLD = ("Ready", "Stalled")
"""Conditions whose transitions make Events. The others' reasons and messages are in these."""


def transitions(old: Json, new: Json) -> tuple[Transition, ...]:
    """What changed between two statuses and is worth telling.

    A first status is told where it is a verdict already (``Ready`` or ``Stalled`` is true), not where work
    goes on. Where ``Stalled`` begins, that ``Ready`` ended for the same reason is not told a second time.
    """
    found: list[Transition] = []
    for kind in reversed(TOLD):
        before, after = find(old, kind), find(new, kind)
        was = before["status"] if before else "False"
        status = after["status"] if after else "False"
        told = after or before
        if told is not None and status != was and not any(t.reason == told["reason"] for t in found):
            message = told["message"] if after else "No longer stalled."
            found.append(Transition(kind, status, told["reason"], message))
    return tuple(found)

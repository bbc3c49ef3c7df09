"""A request and a load as spans of a trace. Pure. What callers write (prompts, pictures) never goes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.requests import steps_drawn
from imagefleet_runtime.worker.waiting import Job, Outcome

Value = str | int | float | bool


@dataclass(frozen=True)
class Span:
    """Times are Unix nanoseconds. ``error``: the code of what this worker did wrong; None: nothing."""

    name: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    children: tuple[Span, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Answered:
    """A request that has its answer. ``model``: None where this worker knows no such model."""

    request_id: str
    model: str | None
    code: str
    status: int
    started_ns: int
    ended_ns: int


def of_request(answered: Answered, job: Job | None, outcome: Outcome | None, now: float) -> Span:
    """The whole of a request. ``now``: the monotonic seconds at which it was answered."""
    attributes: dict[str, Value] = {
        "http.request.method": "POST",
        "http.route": "/v1/generate",
        "http.response.status_code": answered.status,
        "imagefleet.request_id": answered.request_id,
        "imagefleet.code": answered.code,
    }
    if answered.model is not None:
        attributes["imagefleet.model"] = answered.model
    children: list[Span] = []
    if job is not None:
        attributes |= {"imagefleet.mode": job.drawings[0].mode, "imagefleet.images": len(job.drawings)}
        children += _waited(answered, job, now)
        children += _drawn(job, outcome) if outcome is not None else ()
    return Span(
        name="POST /v1/generate",
        started_ns=answered.started_ns,
        ended_ns=answered.ended_ns,
        attributes=attributes,
        children=tuple(children),
        error=answered.code if answered.status >= 500 else None,
    )


def _waited(answered: Answered, job: Job, now: float) -> Iterator[Span]:
    """The time in the queue, and the load that it waited for, where there was one."""

    def unix_ns(monotonic: float) -> int:
        return answered.ended_ns - int((now - monotonic) * 1e9)

    started = now if job.started is None else job.started
    queue = Span("queue", unix_ns(job.arrived), unix_ns(started), {"imagefleet.priority": job.priority})
    yield queue
    load = of_load(job.model)
    if load is not None and queue.started_ns < load.ended_ns <= queue.ended_ns:
        yield load


def of_load(model: Model) -> Span | None:
    """The last load of ``model``: its stages follow one another, and the last ended with it. None: there was none."""
    if model.loaded_ns is None:
        return None
    stages: list[Span] = []
    started_ns = model.loaded_ns
    for name, seconds in reversed(model.load_stages.items()):
        ended_ns = started_ns
        started_ns = ended_ns - int(seconds * 1e9)
        stages.insert(0, Span(name, started_ns, ended_ns))
    return Span("load", started_ns, model.loaded_ns, {"imagefleet.model": model.name}, tuple(stages))


def _drawn(job: Job, outcome: Outcome) -> Iterator[Span]:
    """What an engine did for each picture."""
    for index, (phases, part) in enumerate(zip(outcome.phases, job.parts, strict=True)):
        draw = part.order
        for phase in phases:
            attributes: dict[str, Value] = {"imagefleet.image_index": index}
            if phase.name == "denoise":
                attributes |= {
                    "imagefleet.steps": steps_drawn(draw.steps, draw.strength),
                    "imagefleet.size": f"{draw.width}x{draw.height}",
                    "imagefleet.batch": part.largest_batch,
                }
            yield Span(phase.name, phase.started_ns, phase.ended_ns, attributes)

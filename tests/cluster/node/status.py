"""Pod status from the states of its containers: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .api import Object


@dataclass
class ContainerState:
    """What a container is doing; `state` and `last` are in the words of the API."""

    name: str
    image: str
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Object = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False
    started: bool = False

    @property
    def running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """Of an ended run; None while it runs or waits for another."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    @property
    def never_ran(self) -> bool:
        return "waiting" in self.state and not self.last

    def to_api(self) -> Object:
        return {
            "name": self.name,
            "image": self.image,
            "imageID": f"host://{self.image}",
            "containerID": f"process://{self.name}-{self.restarts}" if not self.never_ran else "",
            "state": self.state,
            "lastState": self.last,
            "restartCount": self.restarts,
            "ready": self.ready,
            "started": self.started,
        }


@dataclass(frozen=True)
class Snapshot:
    """One pod at one moment. `main` are its containers, `init` those that run before, `sidecars` the names of
    the init containers that keep running."""

    pod: Object
    init: Sequence[ContainerState]
    main: Sequence[ContainerState]
    sidecars: frozenset[str]
    initialized: bool
    terminating: bool
    mounted: bool
    ip: str
    host_ip: str
    start_time: str


def phase(snapshot: Snapshot) -> str:
    policy = snapshot.pod["spec"].get("restartPolicy", "Always")
    ended = [c.exit_code for c in snapshot.main]
    if not snapshot.initialized:
        gave_up = any(c.exit_code for c in snapshot.init) and (policy == "Never" or snapshot.terminating)
        return "Failed" if gave_up else "Pending"
    if any(c.running for c in snapshot.main):
        return "Running"
    if any(c.never_ran for c in snapshot.main):
        return "Pending"
    if any(code is None for code in ended):
        return "Running"
    if policy == "Always" and not snapshot.terminating:
        return "Running"
    if all(code == 0 for code in ended):
        return "Succeeded"
    return "Failed" if policy != "OnFailure" or snapshot.terminating else "Running"


def build(snapshot: Snapshot, now: str) -> Object:
    """The whole status that the node answers for, with condition times kept where nothing changed."""
    return {
        "phase": phase(snapshot),
        "conditions": conditions(snapshot, now),
        "hostIP": snapshot.host_ip,
        "hostIPs": [{"$patch": "replace"}, {"ip": snapshot.host_ip}],
        "podIP": snapshot.ip,
        # After a crash of the node the pod comes back under another address: replace, never merge.
        "podIPs": [{"$patch": "replace"}, {"ip": snapshot.ip}],
        "startTime": snapshot.start_time,
        "initContainerStatuses": [c.to_api() for c in snapshot.init],
        "containerStatuses": [c.to_api() for c in snapshot.main],
    }


def conditions(snapshot: Snapshot, now: str) -> list[Object]:
    known = {c["type"]: c for c in (snapshot.pod.get("status") or {}).get("conditions") or []}
    return [_timed(kind, verdict, known, now) for kind, verdict in _verdicts(snapshot, known).items()]


@dataclass(frozen=True)
class _Verdict:
    true: bool
    reason: str = ""
    message: str = ""


def _verdicts(snapshot: Snapshot, known: Mapping[str, Object]) -> dict[str, _Verdict]:
    containers = _containers_ready(snapshot)
    return {
        "PodReadyToStartContainers": _Verdict(snapshot.mounted),
        "Initialized": _initialized(snapshot),
        "Ready": _ready(snapshot, containers, known),
        "ContainersReady": containers,
    }


def _initialized(snapshot: Snapshot) -> _Verdict:
    if snapshot.initialized:
        completed = phase(snapshot) == "Succeeded"
        return _Verdict(True, "PodCompleted" if completed else "")
    waiting = [c.name for c in snapshot.init if c.exit_code != 0]
    return _Verdict(
        False, "ContainersNotInitialized", f"containers with incomplete status: {_names(waiting)}"
    )


def _containers_ready(snapshot: Snapshot) -> _Verdict:
    if phase(snapshot) == "Succeeded":
        return _Verdict(False, "PodCompleted")
    relevant = [*snapshot.main, *(c for c in snapshot.init if c.name in snapshot.sidecars)]
    unready = [c.name for c in relevant if not c.ready]
    if unready or not snapshot.initialized:
        return _Verdict(False, "ContainersNotReady", f"containers with unready status: {_names(unready)}")
    return _Verdict(True)


def _ready(snapshot: Snapshot, containers: _Verdict, known: Mapping[str, Object]) -> _Verdict:
    if snapshot.terminating:
        return _Verdict(False, "PodTerminating")
    if not containers.true:
        return containers
    gates = [gate["conditionType"] for gate in snapshot.pod["spec"].get("readinessGates") or []]
    closed = [gate for gate in gates if known.get(gate, {}).get("status") != "True"]
    if closed:
        return _Verdict(
            False, "ReadinessGatesNotReady", f'corresponding condition of pod readiness gate "{closed[0]}"'
        )
    return _Verdict(True)


def _timed(kind: str, verdict: _Verdict, known: Mapping[str, Object], now: str) -> Object:
    status = "True" if verdict.true else "False"
    before: Mapping[str, Any] = known.get(kind, {})
    since = before["lastTransitionTime"] if before.get("status") == status else now
    # Explicit nulls, because a merge would keep an old reason.
    return {
        "type": kind,
        "status": status,
        "lastTransitionTime": since,
        "reason": verdict.reason or None,
        "message": verdict.message or None,
    }


def _names(names: Sequence[str]) -> str:
    return f"[{' '.join(names)}]"

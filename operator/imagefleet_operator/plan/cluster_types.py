"""What is observed of the cluster: children of pools and models, and pods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a worker is there for."""

    ACTIVE = "Active"
    """It takes requests, or will when it is ready."""
    WARM = "Warm"
    """It holds models and waits."""
    LEAVING = "Leaving"
    """It gets no more requests, and may have some yet."""
    DONE = "Done"
    """It has nothing left to do: the next that goes."""


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """Of a Deployment's status, what a pool's conditions need."""

    current: bool = False
    """Whether the status is about the spec as it is now."""
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    stalled: str = ""
    """The message of ``Progressing=False`` (``ProgressDeadlineExceeded``), else empty."""
    rejected: str = ""
    """The message of ``ReplicaFailure=True`` (quota, admission), else empty."""
    max_unavailable: int = 0
    """Of its strategy: how many workers may be away while others are replaced; 0: a new one starts first."""
    desired: int = 0
    """``spec.replicas``."""


@dataclass(frozen=True, slots=True)
class DaemonSetState:
    """Of a DaemonSet's spec and status, what a pool's conditions need."""

    current: bool = False
    """Whether the status is about the spec as it is now."""
    nodes: int = 0
    """That should have its pod."""
    updated: int = 0
    ready: int = 0
    fetches: int = 0
    """Init containers: models that are fetched."""


@dataclass(frozen=True, slots=True)
class JobState:
    """Of a Job's status, what a model's conditions need."""

    complete: bool = False
    failed: str = ""
    """The message of its ``Failed`` condition, else empty."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child object as last seen. ``owner`` is the uid of its controller, empty where it has none."""

    kind: str
    namespace: str
    name: str
    uid: str
    owner: str
    owner_name: str
    """That controller as ``InferencePool/thumbs``; empty where it is of no kind of ours."""
    deleting: bool
    applied_hash: str
    """Our annotation: the hash of what we applied last; empty where we never did."""
    fields_hash: int
    """Hash of the managed fields that our last apply owns now; 0 where it owns none."""
    state: DeploymentState | DaemonSetState | JobState | None = None
    pool: str = ""
    """The pool or the model that its label names; one of the two is empty."""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not get on, in the words of the one who knows (scheduler, kubelet)."""

    reason: str
    message: str
    since: float = 0.0
    """When the scheduler first found no node for it, in seconds since the epoch; 0 for other troubles."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of ours as last seen."""

    namespace: str
    name: str
    uid: str
    ip: str
    ready: bool
    deleting: bool
    placement: str
    """The annotation as it stands, or empty."""
    trouble: Trouble | None = None
    result: str = ""
    """The termination message of its container, for verification pods."""
    job: str = ""
    """The Job that it belongs to, for verification pods."""
    pool: str = ""
    """The pool or the model that its label names; one of the two is empty."""
    model: str = ""
    requests: Mapping[str, float] = field(default_factory=dict)
    """What it takes of its node, by resource: the sum over its containers."""
    created: float = 0.0
    ready_since: float = 0.0
    """Seconds since the epoch; 0: not known, or not ready."""
    deletion_cost: int = 0
    """Of several pods of one ReplicaSet that of the lowest goes first."""
    node: str = ""
    """Empty before it has one."""
    capacity: str = ""
    """The label ``imagefleet.dev/capacity``: ``spot`` or ``on-demand``; empty in pools without spot."""
    scheduled_at: float = 0.0
    """When it got its node, in seconds since the epoch; 0: not yet."""
    ended_at: float = 0.0
    """When its containers had ended for good; 0 while they have not."""
    deletion_at: float = 0.0
    """By when it must have ended, its grace period included; 0 where it is not deleted."""

    @property
    def shown(self) -> bool:
        """Whether gateways see models on it."""
        return self.placement not in ("", "{}")

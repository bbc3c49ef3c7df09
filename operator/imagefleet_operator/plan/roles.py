"""Which workers of a pool take requests, which wait warm, and which leave; and how many replicas there are for that.

A worker that leaves gets no more requests, finishes what it has, is then marked as the first that may go, and only
then does the number of replicas fall. Who is needed again is taken back in the order of what that costs: workers that
leave first, then warm ones, then new ones.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from imagefleet_operator.plan.cluster_types import DeploymentState, Role
from imagefleet_operator.plan.types import Worker

UNSEEN_SECONDS = 2.0
"""So long after a worker's placement was withdrawn a gateway may still send it requests: it has to see it first."""
SILENT_SECONDS = 600.0
"""So long a worker that does not answer us may leave: then it goes, and its grace period is for what it may still
have."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The role that a worker has had so far, and since when: seconds since the epoch."""

    role: Role
    since: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many workers there should be of each kind. ``forced``: those beyond go even with work, since a person said
    so; their grace period is for that."""

    active: int
    warm: int = 0
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Roles:
    """The outcome: a role for each pod that stays or may yet, by name, and the replicas of the Deployment."""

    of: Mapping[str, Role] = field(default_factory=dict)
    replicas: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)
    """While fewer are to be: workers by their capacity (``spot``, ``on-demand``) that may have work."""


def assign(
    wanted: Wanted,
    deployment: DeploymentState | None,
    workers: Sequence[Worker],
    known: Mapping[str, Standing],
    now: float,
    beyond: Collection[str] = (),
) -> Roles:
    """Give each worker its role. ``known`` are the roles so far, by the uid of the pod; ``beyond`` are the pods that go
    before others, by name.

    Worked example: of 5 workers 3 are wanted active and 1 warm. The one without requests that has least to lose becomes
    the leaving one; when it has been idle for a moment it is done, and there are 4 replicas.
    """
    total = wanted.active + wanted.warm
    there = [w for w in workers if not w.pod.deleting]
    asked = deployment.desired if deployment is not None else 0
    leaving = _leaving(wanted, deployment, there, total)
    quota = max(wanted.active, len(there) - wanted.warm - leaving)
    stays = sorted(there, key=lambda w: _stays(w, known, beyond))
    active, rest = stays[:quota], stays[quota:]
    goes = sorted(rest, key=lambda w: _goes(w, known, beyond))
    roles = {w.pod.name: Role.ACTIVE for w in active} | {w.pod.name: Role.WARM for w in goes[leaving:]}
    for worker in goes[:leaving]:
        roles[worker.pod.name] = _end(worker, wanted.forced, known, now)
    if asked <= total:
        return Roles(roles, total)
    if not wanted.forced and deployment is not None and not _settled(deployment):
        return Roles(roles, asked, Counter(w.pod.capacity for w in there))
    # Pods that are not made yet go at once; those that are there beyond what was asked for are on their way out.
    gone = _may_go(goes[:leaving], active, roles, wanted.forced)
    staying = [w for w in there if w.pod.name not in gone]
    replicas = max(total, min(asked, len(staying)))
    return Roles(roles, replicas, Counter(w.pod.capacity for w in staying))


def _settled(deployment: DeploymentState) -> bool:
    """Whether all workers are of one template: while they are replaced, which of them goes is the controller's."""
    return deployment.current and deployment.updated >= deployment.replicas


def _leaving(wanted: Wanted, deployment: DeploymentState | None, there: Sequence[Worker], total: int) -> int:
    """How many are to leave: those that the Deployment was asked for beyond what is wanted now, not those that it made
    itself to replace others, and those that were done already."""
    surplus = max(0, len(there) - total)
    if deployment is None or not (wanted.forced or _settled(deployment)):
        return 0
    done = sum(w.pod.deletion_cost < 0 for w in there)
    return min(surplus, max(deployment.desired - total, done))


def _stays(worker: Worker, known: Mapping[str, Standing], beyond: Collection[str]) -> tuple[object, ...]:
    """The order in which workers are to be active, first come first."""
    role, over = _role(worker, known), worker.pod.name in beyond
    order = (Role.ACTIVE, Role.LEAVING, Role.DONE, Role.WARM)
    if not worker.pod.ready or worker.interrupted:
        return True, not worker.pod.shown, worker.pod.created, worker.pod.name
    return False, over, order.index(role), -_work(worker), worker.pod.created, worker.pod.name


def _role(worker: Worker, known: Mapping[str, Standing]) -> Role:
    """The role so far; of a worker that we have not met since we started, what can be seen of it."""
    if worker.pod.shown:
        return Role.ACTIVE
    if worker.pod.deletion_cost < 0:
        return Role.DONE
    standing = known.get(worker.pod.uid)
    return Role.WARM if standing is None else standing.role


def _goes(worker: Worker, known: Mapping[str, Standing], beyond: Collection[str]) -> tuple[object, ...]:
    """The order in which workers are to go. The controller of the pods takes those that are not ready first, whatever
    we say: so do we."""
    leaves = _role(worker, known) in (Role.LEAVING, Role.DONE)
    over = worker.pod.name in beyond
    return worker.pod.ready, not over, not leaves, _work(worker), -worker.pod.created, worker.pod.name


def _work(worker: Worker) -> float:
    return (worker.report.work_seconds or 0.0) if worker.report else 0.0


def _end(worker: Worker, forced: bool, known: Mapping[str, Standing], now: float) -> Role:
    """Whether a leaving worker is done: gateways have had time to see that it gets nothing more, and it has said since
    then that it has nothing, or has been silent for long."""
    standing = known.get(worker.pod.uid)
    if not worker.pod.ready or worker.pod.shown:
        return Role.LEAVING
    if standing is None or standing.role not in (Role.LEAVING, Role.DONE):
        return Role.LEAVING
    unseen = standing.since + UNSEEN_SECONDS
    if standing.role is Role.DONE or (forced and now >= unseen):
        return Role.DONE
    if worker.silent_since is not None:
        return Role.DONE if now - max(standing.since, worker.silent_since) >= SILENT_SECONDS else Role.LEAVING
    idle = worker.report is not None and worker.report.idle
    return Role.DONE if idle and worker.heard_at >= unseen else Role.LEAVING


def _may_go(
    leaving: Sequence[Worker], active: Sequence[Worker], roles: Mapping[str, Role], forced: bool
) -> set[str]:
    """Those that leave and may go now, by the name of the pod. One that is not ready and has served may have work that
    nobody tells of: the controller would take it first, so none goes before it is ready again, or has gone."""
    if not forced and any(not w.pod.ready and w.pod.shown for w in (*leaving, *active)):
        return set()
    return {
        w.pod.name
        for w in leaving
        if not w.pod.ready or (roles[w.pod.name] is Role.DONE and w.pod.deletion_cost < 0)
    }

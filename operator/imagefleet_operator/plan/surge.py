"""How workers are replaced when their template changes.

With surge while an accelerator is free: a new worker starts, then an old one ends. Where none is free, workers end one
at a time and their successors take their accelerators. What the scheduler says of the new worker's pod decides.
"""

import re
from collections.abc import Sequence

from imagefleet_operator.plan.cluster_types import DeploymentState, Pod
from imagefleet_operator.plan.types import PoolObserved, PoolSpec

PATIENCE_SECONDS = 5.0
"""A pod may lack an accelerator for a moment: one that is given back has to be told of by its node first."""


def max_unavailable(observed: PoolObserved, now: float) -> int:
    """The Deployment's ``maxUnavailable``; 0 means that a new worker starts first (``maxSurge`` 1 then, else 0).

    Once workers end first, that stays so until all are replaced: the accelerator that one gave back is the next
    one's, not a spare one. Pods that find no accelerator whatever is done (a pool larger than its nodes) are
    unavailable in any case, so that one more may be: with 3 replicas and 2 accelerators, 1 old pod and 1 new one wait,
    and 2 it is.

    The last ready worker ends only for a successor that asks of no resource for more than it: whether a larger one
    would fit in its place cannot be known, and nobody would serve if not.
    """
    spec, state = observed.pool.spec, observed.deployment
    if spec is None or state is None or not _replacing(spec, state):
        return 0
    if state.max_unavailable or not state.current:
        return state.max_unavailable
    found = lacking(observed, now)
    ready = [w.pod for w in observed.workers if w.pod.ready and not w.pod.deleting]
    if len(ready) == 1 and not any(_fits_in_place(pod, ready[0]) for pod in found):
        return 0
    return len(found)


def look_again(observed: PoolObserved, now: float) -> float | None:
    """The seconds after which ``max_unavailable`` may say something else without any event; None: never."""
    spec, state = observed.pool.spec, observed.deployment
    if spec is None or state is None or not _replacing(spec, state) or state.max_unavailable:
        return None
    waits = (PATIENCE_SECONDS - (now - _since(pod)) for pod in _lacking(spec, observed))
    return min((wait for wait in waits if wait > 0), default=None)


def lacking(observed: PoolObserved, now: float) -> Sequence[Pod]:
    """Pods that have found no accelerator for longer than it takes to give one back."""
    spec = observed.pool.spec
    return [p for p in _lacking(spec, observed) if now - _since(p) >= PATIENCE_SECONDS] if spec else []


def _replacing(spec: PoolSpec, state: DeploymentState) -> bool:
    """Whether workers of an older template may be there, or lack already while their successors are not made yet."""
    return spec.accelerator_count > 0 and (
        not state.current or state.updated < max(state.replicas, state.desired)
    )


def _lacking(spec: PoolSpec, observed: PoolObserved) -> Sequence[Pod]:
    """Pods that a node would take if it had accelerators left. The scheduler looks at a node's resources last, so that
    where it names this one, all else (selectors, taints, affinity) is right there."""
    words = re.compile(rf"Insufficient {re.escape(spec.accelerator_resource)}[.,]?(\s|$)")
    pods = (w.pod for w in observed.workers if not w.pod.deleting)
    return [pod for pod in pods if pod.trouble and words.search(pod.trouble.message)]


def _since(pod: Pod) -> float:
    return pod.trouble.since if pod.trouble else 0.0


def _fits_in_place(new: Pod, old: Pod) -> bool:
    return all(amount <= old.requests.get(resource, 0.0) for resource, amount in new.requests.items())

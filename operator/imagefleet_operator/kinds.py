"""The kinds of objects that the operator reads and writes."""

from dataclasses import dataclass

MANAGED = "app.kubernetes.io/managed-by=imagefleet"
"""Selects, on the server, all that the operator makes and nothing else."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: how the API names it, and which of its objects concern us."""

    kind: str
    group: str
    version: str
    plural: str
    selector: str = ""

    @property
    def api_version(self) -> str:
        """As in a manifest: ``apps/v1``, ``v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The path of all objects, of those of a namespace, or of one."""
        parts = ["", "apis", self.group, self.version] if self.group else ["", "api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        return "/".join([*parts, *(part for part in (name, subresource) if part is not None)])


POOL = Kind("InferencePool", "imagefleet.dev", "v1alpha1", "inferencepools")
MODEL = Kind("ImageModel", "imagefleet.dev", "v1alpha1", "imagemodels")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments", MANAGED)
DAEMON_SET = Kind("DaemonSet", "apps", "v1", "daemonsets", MANAGED)
SERVICE = Kind("Service", "", "v1", "services", MANAGED)
SERVICE_ACCOUNT = Kind("ServiceAccount", "", "v1", "serviceaccounts", MANAGED)
BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", MANAGED)
JOB = Kind("Job", "batch", "v1", "jobs", MANAGED)
POD = Kind("Pod", "", "v1", "pods", MANAGED)
NODE = Kind("Node", "", "v1", "nodes")
LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases")
EVENT = Kind("Event", "events.k8s.io", "v1", "events")

WATCHED = (MODEL, POOL, POD, DEPLOYMENT, DAEMON_SET, JOB, SERVICE, SERVICE_ACCOUNT, BUDGET)
CHILDREN = {kind.kind: kind for kind in (DEPLOYMENT, DAEMON_SET, SERVICE, SERVICE_ACCOUNT, BUDGET, JOB)}

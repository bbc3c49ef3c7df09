"""Identity and privileges of a container, from the security contexts of pod and container."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .api import Object
from .errors import ConfigError

# The user of images that say nothing but "not root": the number that distroless images use.
NONROOT = 65532

# What container runtimes give to a container that asks for nothing.
DEFAULT_CAPABILITIES = frozenset(
    {
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    }
)


@dataclass(frozen=True)
class Identity:
    uid: int
    gid: int
    groups: list[int]
    capabilities: list[str]
    no_new_privileges: bool
    read_only_root: bool


def identity(pod: Object, container: Object) -> Identity:
    of_pod: Object = pod["spec"].get("securityContext") or {}
    own: Object = container.get("securityContext") or {}
    merged = {**of_pod, **own}
    uid = merged.get("runAsUser")
    if uid is None:
        uid = NONROOT if merged.get("runAsNonRoot") else 0
    elif uid == 0 and merged.get("runAsNonRoot"):
        raise ConfigError("container has runAsNonRoot and would run as root (runAsUser is 0)")
    default_group = NONROOT if uid == NONROOT else 0
    groups = list(of_pod.get("supplementalGroups") or [])
    if of_pod.get("fsGroup") is not None:
        groups.append(of_pod["fsGroup"])
    return Identity(
        uid=uid,
        gid=merged.get("runAsGroup", default_group),
        groups=groups,
        capabilities=_capabilities(own),
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        read_only_root=bool(own.get("readOnlyRootFilesystem")),
    )


def _capabilities(context: Object) -> list[str]:
    if context.get("privileged"):
        return ["ALL"]
    change: Object = context.get("capabilities") or {}
    dropped = {name.removeprefix("CAP_") for name in change.get("drop") or []}
    kept = set() if "ALL" in dropped else DEFAULT_CAPABILITIES - dropped
    return sorted(kept | {name.removeprefix("CAP_") for name in change.get("add") or []})


def file_owner(pod: Object) -> tuple[int | None, int | None]:
    """(uid, gid) for token files: a token is readable by the pod's own user alone, where all its containers
    share one; otherwise by the pod's group. None: leave as it is."""
    if os.geteuid() != 0:
        return None, None
    containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    try:
        users = {identity(pod, container).uid for container in containers}
    except ConfigError:  # the container itself will tell
        return None, group
    return (users.pop() if len(users) == 1 else None), group

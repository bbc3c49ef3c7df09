"""What can be wrong with a pod, by where a user sees it."""

from __future__ import annotations


class ConfigError(Exception):
    """The container cannot be made from its spec: waiting reason CreateContainerConfigError."""


class MountError(Exception):
    """A volume is not there yet: the pod stays in ContainerCreating with a FailedMount event."""

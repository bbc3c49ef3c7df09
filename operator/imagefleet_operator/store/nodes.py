"""The taints of nodes, as far as they are watched."""

from collections.abc import Mapping
from typing import Any

NONE: frozenset[str] = frozenset()


class Nodes:
    """Keys of taints by the node's name; a node without any, or one that is not known, has none."""

    def __init__(self) -> None:
        self._taints: dict[str, frozenset[str]] = {}

    def taints(self, name: str) -> frozenset[str]:
        """Of one node."""
        return self._taints.get(name, NONE)

    def put(self, node: Mapping[str, Any]) -> bool:
        """Take in a node; whether its taints are others than before."""
        keys = frozenset(taint["key"] for taint in (node.get("spec") or {}).get("taints") or ())
        return self._set(node["metadata"]["name"], keys)

    def remove(self, name: str) -> bool:
        """Take in that a node has gone."""
        return self._set(name, NONE)

    def keep(self, names: set[str]) -> None:
        """Forget all but these."""
        self._taints = {name: keys for name, keys in self._taints.items() if name in names}

    def _set(self, name: str, keys: frozenset[str]) -> bool:
        changed = self.taints(name) != keys
        if keys:
            self._taints[name] = keys
        else:
            self._taints.pop(name, None)
        return changed

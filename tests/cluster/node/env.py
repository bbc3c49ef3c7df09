"""Environment, command and arguments of a container."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import quantity
from .api import Api, ApiError, Object
from .errors import ConfigError

_REFERENCE = re.compile(r"\$(?:\$|\(([^()\s]+)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


@dataclass(frozen=True)
class PodFacts:
    """What the downward API may be asked for beside the pod itself."""

    pod: Object
    ip: str
    host_ip: str
    capacity: Mapping[str, str]

    def field(self, path: str) -> str:
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        subscript = _SUBSCRIPT.fullmatch(path)
        if subscript:
            return str((metadata.get(subscript[1]) or {}).get(subscript[2], ""))
        known = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "metadata.labels": _lines(metadata.get("labels")),
            "metadata.annotations": _lines(metadata.get("annotations")),
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "status.podIP": self.ip,
            "status.podIPs": self.ip,
            "status.hostIP": self.host_ip,
            "status.hostIPs": self.host_ip,
        }
        if path not in known:
            raise ConfigError(f"fieldRef {path} is not supported")
        return str(known[path])

    def resource(self, ref: Object, default: Object) -> str:
        """A container's own limit or request; a limit that is not set is the node's capacity."""
        containers = [*self.pod["spec"]["containers"], *self.pod["spec"].get("initContainers", [])]
        named = {container["name"]: container for container in containers}
        resources = named.get(ref.get("containerName", ""), default).get("resources") or {}
        kind, _, name = ref["resource"].partition(".")
        value = (resources.get(kind) or {}).get(name)
        if value is None:
            value = self.capacity.get(name, "0") if kind == "limits" else "0"
        return quantity.in_units(str(value), str(ref.get("divisor") or "1"))


def _lines(pairs: Mapping[str, str] | None) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted((pairs or {}).items()))


def expand(text: str, values: Mapping[str, str]) -> str:
    """$(NAME) becomes its value, $$ a dollar sign; an unknown name stays as it is written."""

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


def command_line(container: Object, env: Mapping[str, str]) -> list[str]:
    if not container.get("command"):
        name, image = container["name"], container.get("image", "")
        raise ConfigError(
            f"container {name} has no command: this node runs processes of the host, so the entry point of "
            f"image {image!r} is unknown to it"
        )
    words = [*container["command"], *(container.get("args") or [])]
    return [expand(word, env) for word in words]


async def environment(
    api: Api, facts: PodFacts, container: Object, base: Mapping[str, str]
) -> dict[str, str]:
    """`base` is what the node gives to all; the container's own variables win over it."""
    values = dict(base)
    source = _Source(api, facts, container)
    for entry in container.get("envFrom") or []:
        for key, value in (await source.all_of(entry)).items():
            values[entry.get("prefix", "") + key] = value
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            found = await source.one_of(entry["valueFrom"])
            if found is not None:
                values[entry["name"]] = found
        else:
            values[entry["name"]] = expand(entry.get("value") or "", values)
    return values


class _Source:
    """Where values come from. Each ConfigMap and Secret is read once per container start."""

    def __init__(self, api: Api, facts: PodFacts, container: Object) -> None:
        self._api = api
        self._facts = facts
        self._container = container
        self._read: dict[tuple[str, str], dict[str, str] | None] = {}

    async def all_of(self, entry: Object) -> dict[str, str]:
        for field, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if field in entry:
                ref = entry[field]
                data = await self._data(kind, ref["name"])
                if data is None and not ref.get("optional"):
                    raise ConfigError(f"{kind[:-1]} {ref['name']!r} not found")
                return data or {}
        return {}

    async def one_of(self, source: Object) -> str | None:
        if "fieldRef" in source:
            return self._facts.field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return self._facts.resource(source["resourceFieldRef"], self._container)
        for field, kind in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
            if field in source:
                return await self._key(kind, source[field])
        raise ConfigError(f"valueFrom {sorted(source)} is not supported")

    async def _key(self, kind: str, ref: Object) -> str | None:
        data = await self._data(kind, ref["name"])
        value = None if data is None else data.get(ref["key"])
        if value is None and not ref.get("optional"):
            raise ConfigError(f"couldn't find key {ref['key']} in {kind[:-1]} {ref['name']!r}")
        return value

    async def _data(self, kind: str, name: str) -> dict[str, str] | None:
        if (kind, name) not in self._read:
            namespace = self._facts.pod["metadata"]["namespace"]
            try:
                found = await self._api.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
                self._read[kind, name] = _text(kind, found)
            except ApiError as error:
                if error.status != 404:
                    raise
                self._read[kind, name] = None
        return self._read[kind, name]


def _text(kind: str, found: dict[str, Any]) -> dict[str, str]:
    data = found.get("data") or {}
    if kind == "secrets":
        return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}
    return dict(data)

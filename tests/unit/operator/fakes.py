"""An API server in memory, as far as the operator's own client asks it."""

import copy
import itertools
from collections.abc import AsyncIterator
from typing import Any

from imagefleet_operator.client import FIELD_MANAGER, ApiError, KubeClient
from imagefleet_operator.kinds import POD, Kind
from imagefleet_operator.plan.types import Json

Place = tuple[str, str, str]


class Api(KubeClient):
    """Objects by kind, namespace and name. ``writes`` names each write that was taken, ``reads`` each GET; ``fail``
    holds what to answer instead to a verb and a kind, once for each entry of its list."""

    def __init__(self) -> None:
        self.objects: dict[Place, Json] = {}
        self.writes: list[str] = []
        self.reads: list[str] = []
        self.fail: dict[str, list[Exception]] = {}
        self._versions = itertools.count(1)

    def add(self, kind: Kind, name: str, **parts: Any) -> Json:
        """Someone else makes an object."""
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, **parts}
        obj["metadata"] = {"namespace": "ns", "name": name, "generation": 1, **obj.get("metadata", {})}
        return self._keep(kind, obj)

    def drop(self, kind: Kind, name: str) -> Json:
        """Someone deletes an object; as it was last."""
        obj = self.objects.pop((kind.kind, "ns", name))
        return self._stamped(obj)

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        self._check("get", kind)
        self.reads.append(f"{kind.kind} {name}")
        return copy.deepcopy(self.objects.get((kind.kind, namespace, name)))

    async def list(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Json]:
        self._check("list", kind)
        for (found, place, _), obj in list(self.objects.items()):
            if found == kind.kind and namespace in (None, place):
                yield copy.deepcopy(obj)

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        self._write("create", kind, body)
        return self._keep(kind, body)

    async def apply(self, kind: Kind, body: Json, subresource: str | None = None) -> Json:
        self._write("apply " + subresource if subresource else "apply", kind, body)
        place = (kind.kind, body["metadata"]["namespace"], body["metadata"]["name"])
        known = self.objects.get(place)
        if subresource:
            return self._keep(kind, {**self._own(known, body), "status": body["status"]})
        fields = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": _fields(body)}
        metadata = {**(known or {}).get("metadata", {}), **body["metadata"], "managedFields": [fields]}
        return self._keep(kind, {**(known or {}), **body, "metadata": metadata})

    async def merge(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        self._write("merge", kind, {"metadata": {"name": name}})
        known = self._own(self.objects.get((kind.kind, namespace, name)), body)
        annotations = {**known["metadata"].get("annotations", {}), **body["metadata"]["annotations"]}
        return self._keep(kind, {**known, "metadata": {**known["metadata"], "annotations": annotations}})

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> Json:
        self._write("delete", kind, {"metadata": {"name": name}})
        self._own(self.objects.get((kind.kind, namespace, name)), {"metadata": {"uid": uid}})
        return self.objects.pop((kind.kind, namespace, name))

    async def evict(self, namespace: str, name: str, uid: str) -> Json:
        self._write("evict", POD, {"metadata": {"name": name}})
        return self._own(self.objects.get((POD.kind, namespace, name)), {"metadata": {"uid": uid}})

    @staticmethod
    def _own(known: Json | None, body: Json) -> Json:
        if known is None:
            raise ApiError(404, "NotFound", "not found")
        if known["metadata"]["uid"] != body["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "the uid is another one")
        return known

    def _check(self, verb: str, kind: Kind) -> None:
        answers = self.fail.get(f"{verb} {kind.kind}")
        if answers:
            raise answers.pop(0)

    def _write(self, verb: str, kind: Kind, body: Json) -> None:
        self._check(verb, kind)
        self.writes.append(f"{verb} {kind.kind} {body['metadata'].get('name')}")

    def _keep(self, kind: Kind, obj: Json) -> Json:
        kept = self._stamped(obj)
        self.objects[kind.kind, kept["metadata"]["namespace"], kept["metadata"]["name"]] = kept
        return copy.deepcopy(kept)

    def _stamped(self, obj: Json) -> Json:
        version = next(self._versions)
        metadata = {"uid": f"uid-{version}", **obj["metadata"], "resourceVersion": str(version)}
        return {**copy.deepcopy(obj), "metadata": copy.deepcopy(metadata)}


def _fields(value: Json) -> Json:
    """Every field is ours; lists as a whole."""
    return {f"f:{key}": _fields(part) if isinstance(part, dict) else {} for key, part in value.items()}

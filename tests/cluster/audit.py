"""The API server's audit log: who asked for what. Tests count writes with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class AuditEvent:
    """One request. A long one (a watch) has two: stage ResponseStarted, then ResponseComplete."""

    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    stage: str
    agent: str
    decision: str
    """Of authorization: allow or forbid. Admission may refuse what it allowed, with the same status 403."""

    @classmethod
    def read(cls, document: dict[str, Any]) -> AuditEvent:
        target = document.get("objectRef") or {}
        return cls(
            user=(document.get("user") or {}).get("username", ""),
            verb=document.get("verb", ""),
            resource=target.get("resource", ""),
            subresource=target.get("subresource", ""),
            namespace=target.get("namespace", ""),
            name=target.get("name", ""),
            code=(document.get("responseStatus") or {}).get("code", 0),
            stage=document.get("stage", ""),
            agent=document.get("userAgent", ""),
            decision=(document.get("annotations") or {}).get("authorization.k8s.io/decision", ""),
        )


class AuditLog:
    """`mark()` remembers a point in time; `events(since=...)` are those after it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """The length of the log: what comes later lies behind it."""
        return self._path.stat().st_size

    def events(
        self,
        *,
        since: int = 0,
        user: str | None = None,
        verb: str | None = None,
        resource: str | None = None,
        namespace: str | None = None,
        writes: bool = False,
    ) -> Iterator[AuditEvent]:
        """Filters are exact, but for `user`, which may also be the end of the name (":operator" finds
        "system:serviceaccount:imagefleet-system:operator"). `writes` leaves out all that only reads."""
        for event in self._read(since):
            wanted = {"verb": verb, "resource": resource, "namespace": namespace}
            same = all(value is None or getattr(event, key) == value for key, value in wanted.items())
            if same and (user is None or event.user.endswith(user)) and (not writes or event.verb in WRITES):
                yield event

    def _read(self, since: int) -> Iterator[AuditEvent]:
        with self._path.open("rb") as file:
            file.seek(since)
            for line in file:
                if line.endswith(b"\n"):  # the server may be writing the last one
                    yield AuditEvent.read(json.loads(line))

"""Volumes of a pod as folders of the host, which the launcher then binds into the containers."""

from __future__ import annotations

import asyncio
import base64
import calendar
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import files, security
from .api import Api, ApiError, Object
from .env import PodFacts
from .errors import MountError
from .files import File, Owner


@dataclass(frozen=True)
class Volume:
    path: Path
    read_only: bool = False


@dataclass
class Volumes:
    """Makes all volumes of one pod and keeps its tokens fresh."""

    api: Api
    facts: PodFacts
    folder: Path
    _refreshers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def _pod(self) -> Object:
        return self.facts.pod

    async def make(self) -> dict[str, Volume]:
        made = {}
        for volume in self._pod["spec"].get("volumes") or []:
            try:
                made[volume["name"]] = await self._make(volume)
            except ApiError as error:
                raise MountError(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}": {error}'
                ) from error
        return made

    def close(self) -> None:
        for task in self._refreshers:
            task.cancel()

    async def _make(self, volume: Object) -> Volume:
        name = volume["name"]
        makers: dict[str, Callable[[str, Object], Awaitable[Volume]]] = {
            "emptyDir": self._empty_dir,
            "hostPath": self._host_path,
            "configMap": self._config_map,
            "secret": self._secret,
            "downwardAPI": self._downward,
            "projected": self._projected,
            "persistentVolumeClaim": self._claim,
        }
        for kind, maker in makers.items():
            if kind in volume:
                return await maker(name, volume[kind])
        kinds = sorted(set(volume) - {"name"})
        raise MountError(f'volume "{name}": {", ".join(kinds) or "no source"} is not supported by this node')

    @property
    def _owner(self) -> Owner:
        return Owner(gid=(self._pod["spec"].get("securityContext") or {}).get("fsGroup"))

    def _at(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    async def _empty_dir(self, name: str, _: Object) -> Volume:
        return Volume(files.shared_folder(self.folder / name, self._owner.gid))

    async def _host_path(self, name: str, source: Object) -> Volume:
        return _host_path(name, source)

    async def _config_map(self, name: str, source: Object) -> Volume:
        return self._written(name, await self._config_map_files(source, source.get("defaultMode", 0o644)))

    async def _secret(self, name: str, source: Object) -> Volume:
        renamed = {**source, "name": source["secretName"]}
        return self._written(name, await self._secret_files(renamed, source.get("defaultMode", 0o644)))

    async def _downward(self, name: str, source: Object) -> Volume:
        return self._written(name, self._downward_files(source, source.get("defaultMode", 0o644)))

    def _written(self, name: str, contents: list[File]) -> Volume:
        folder = self._at(name)
        for file in contents:
            files.write(folder, file)
        return Volume(folder, read_only=True)

    async def _projected(self, name: str, projected: Object) -> Volume:
        mode = projected.get("defaultMode", 0o644)
        folder = self._at(name)
        for source in projected.get("sources") or []:
            if "configMap" in source:
                self._written(name, await self._config_map_files(source["configMap"], mode))
            elif "secret" in source:
                self._written(name, await self._secret_files(source["secret"], mode))
            elif "downwardAPI" in source:
                self._written(name, self._downward_files(source["downwardAPI"], mode))
            elif "serviceAccountToken" in source:
                await self._token(folder, source["serviceAccountToken"], mode)
            else:
                raise MountError(f'volume "{name}": projected {sorted(source)} is not supported')
        return Volume(folder, read_only=True)

    async def _config_map_files(self, source: Object, mode: int) -> list[File]:
        found = await self._read("configmaps", source)
        data = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        data |= {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        return self._selected(data, source, mode)

    async def _secret_files(self, source: Object, mode: int) -> list[File]:
        found = await self._read("secrets", source)
        data = {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        return self._selected(data, source, mode)

    def _selected(self, data: dict[str, bytes], source: Object, mode: int) -> list[File]:
        """All keys, or the listed items under their own paths and modes."""
        items = source.get("items")
        if items is None:
            return [File(key, value, mode, self._owner) for key, value in data.items()]
        missing = [item["key"] for item in items if item["key"] not in data]
        if missing and not source.get("optional"):
            raise MountError(f"references non-existent key: {missing[0]}")
        present = [item for item in items if item["key"] in data]
        return [File(i["path"], data[i["key"]], i.get("mode", mode), self._owner) for i in present]

    def _downward_files(self, source: Object, mode: int) -> list[File]:
        made = []
        for item in source.get("items") or []:
            if "fieldRef" in item:
                text = self.facts.field(item["fieldRef"]["fieldPath"])
            else:
                text = self.facts.resource(item["resourceFieldRef"], {})
            made.append(File(item["path"], text.encode(), item.get("mode", mode), self._owner))
        return made

    async def _claim(self, name: str, source: Object) -> Volume:
        namespace = self._pod["metadata"]["namespace"]
        claim = await self.api.get(
            f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{source['claimName']}"
        )
        if (claim.get("status") or {}).get("phase") != "Bound":
            raise MountError(f'persistentvolumeclaim "{source["claimName"]}" is not bound')
        spec = (await self.api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}"))["spec"]
        backing = spec.get("hostPath") or spec.get("local")
        if backing is None:
            raise MountError(f'volume "{name}": only hostPath and local PersistentVolumes are supported')
        made = _host_path(name, backing)
        only_read = set(spec.get("accessModes") or []) == {"ReadOnlyMany"}
        return Volume(made.path, read_only=bool(source.get("readOnly")) or only_read)

    async def _read(self, kind: str, source: Object) -> Object:
        namespace = self._pod["metadata"]["namespace"]
        try:
            return await self.api.get(f"/api/v1/namespaces/{namespace}/{kind}/{source['name']}")
        except ApiError as error:
            if error.status == 404 and source.get("optional"):
                return {}
            raise

    async def _token(self, folder: Path, source: Object, mode: int) -> None:
        seconds = await self._write_token(folder, source, mode)
        self._refreshers.append(asyncio.create_task(self._refresh(folder, source, mode, seconds)))

    async def _refresh(self, folder: Path, source: Object, mode: int, seconds: float) -> None:
        """As a kubelet does: a new token when four fifths of the life of the old one are over."""
        while True:
            await asyncio.sleep(seconds * 0.8)
            seconds = 10.0  # after a failure, try again soon
            with contextlib.suppress(ApiError, OSError, TimeoutError):
                seconds = await self._write_token(folder, source, mode)

    async def _write_token(self, folder: Path, source: Object, mode: int) -> float:
        """Write a token that is bound to this pod; the seconds it stays valid."""
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        account = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{spec['serviceAccountName']}"
        wanted = int(source.get("expirationSeconds", 3600))
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        body: Object = {"spec": {"expirationSeconds": wanted, "boundObjectRef": bound}}
        if source.get("audience"):
            body["spec"]["audiences"] = [source["audience"]]
        answer = await self.api.create(f"{account}/token", body)
        uid, gid = security.file_owner(self._pod)
        private = 0o600 if uid is not None and gid is None else mode
        file = File(source["path"], answer["status"]["token"].encode(), private, Owner(uid, gid))
        files.write(folder, file)
        # The server may grant more than was asked, and expects renewal by what was asked.
        return min(wanted, _seconds_left(answer["status"]["expirationTimestamp"]))


def _seconds_left(timestamp: str) -> float:
    return calendar.timegm(time.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ")) - time.time()


def _host_path(name: str, source: Object) -> Volume:
    path = Path(source["path"])
    kind = source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch()
    if not path.exists():
        raise MountError(f'MountVolume.SetUp failed for volume "{name}": hostPath {path} does not exist')
    return Volume(path)

"""``hf://OWNER/NAME@REVISION[/FOLDER]``: a repository of the Hugging Face hub, over its HTTP API."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.credentials import Credentials
from imagefleet_runtime.worker.sources.remote import MAX_LISTED, RemoteFile, leads_upwards
from imagefleet_runtime.worker.sources.web import Web, check_endpoint, range_header

# Of up to 1,000 files each. A server that goes on for ever is cut off here.
MAX_PAGES = MAX_LISTED // 1000
HUB = "https://huggingface.co"
URI = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)@([0-9a-f]{40})((?:/[\w.@+=,~-]+)*)/?", re.ASCII)


class HubRepository:
    """Raises SourceError (UnsafePath, FetchFailed)."""

    def __init__(self, uri: str, credentials: Credentials) -> None:
        match = URI.fullmatch(uri)
        if match is None or leads_upwards(uri):
            raise SourceError(
                "UnsafePath",
                f"{uri} is not hf://OWNER/NAME@REVISION[/FOLDER], REVISION a commit's 40 hex digits",
            )
        self._repository, self._revision, folder = match.groups()
        self._folder = folder.removeprefix("/")
        endpoint = credentials.get("endpoint") or os.environ.get("HF_ENDPOINT") or HUB
        self._web = Web(check_endpoint(endpoint))
        token = credentials.get("token")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def files(self) -> list[RemoteFile]:
        found: list[RemoteFile] = []
        path = f"/{quote(self._folder)}" if self._folder else ""
        url = f"{self._web.base}/api/models/{self._repository}/tree/{self._revision}{path}?recursive=true"
        for _ in range(MAX_PAGES):
            entries, response = self._web.json(url, self._headers)
            found += self._read(entries)
            following = self._next(response)
            if following is None:
                return found
            url = following
        raise SourceError("FetchFailed", f"{self._repository} has more files than a model can have")

    def _read(self, entries: object) -> list[RemoteFile]:
        if not isinstance(entries, list):
            raise SourceError("FetchFailed", f"{self._web.base} does not answer as the hub does")
        try:
            return [self._file(entry) for entry in entries if entry["type"] == "file"]
        except (KeyError, TypeError, ValueError):
            raise SourceError("FetchFailed", f"{self._web.base} does not answer as the hub does") from None

    def _file(self, entry: dict[str, Any]) -> RemoteFile:
        path = str(entry["path"])
        name = path.removeprefix(f"{self._folder}/") if self._folder else path
        large = entry.get("lfs")  # large files have a digest, small ones only git's
        sha256 = str(large["oid"]).removeprefix("sha256:") if large else None
        size = int(large["size"] if large else entry["size"])
        return RemoteFile(name, size, sha256, path, str(entry["oid"]))

    def _next(self, response: httpx.Response) -> str | None:
        """The next page, which must be of the same server, for the token is sent to it."""
        link = response.links.get("next", {}).get("url")
        if link is None:
            return None
        url = self._web.absolute(link)
        if not url.startswith(f"{self._web.base}/"):
            raise SourceError("FetchFailed", f"{self._web.base} continues its listing on another server")
        return url

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, end: int) -> Iterator[Iterator[bytes]]:
        wanted = range_header(start, end, file.size)
        url = f"{self._web.base}/{self._repository}/resolve/{self._revision}/{quote(file.key)}"
        with (
            self._web.get(url, {**self._headers, **wanted}) as response,
            self._web.ranged(response, url, start, file.size, ranged=bool(wanted)) as chunks,
        ):
            yield chunks

    def close(self) -> None:
        self._web.close()

"""``oci://REGISTRY/REPOSITORY@sha256:DIGEST`` or ``:TAG``: an artifact whose layers are files.

After the OCI distribution specification 1.1 and its token authentication. Layers are named by the annotation
``org.opencontainers.image.title``, as ``oras push`` writes it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.credentials import Credentials
from imagefleet_runtime.worker.sources.remote import MAX_LISTED, RemoteFile, leads_upwards
from imagefleet_runtime.worker.sources.web import LOOPBACK, Web, check_endpoint, range_header

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"  # how oras marks a folder that it packed as a tar file
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
URI = re.compile(
    r"oci://([A-Za-z0-9.-]+(?::\d+)?)/([a-z0-9._/-]+)(?:@(sha256:[0-9a-f]{64})|:([\w][\w.-]{0,127}))",
    re.ASCII,
)
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Artifact:
    """Raises SourceError (UnsafePath, FetchFailed)."""

    def __init__(self, uri: str, credentials: Credentials) -> None:
        match = URI.fullmatch(uri)
        if match is None or leads_upwards(uri):
            raise SourceError(
                "UnsafePath",
                f"{uri} is neither oci://REGISTRY/REPOSITORY@sha256:DIGEST nor oci://REGISTRY/REPOSITORY:TAG",
            )
        self._registry, self._repository, self._digest, tag = match.groups()
        self._reference = self._digest or tag
        endpoint = credentials.get("endpoint") or default_endpoint(self._registry)
        self._web = Web(check_endpoint(endpoint))
        self._login = login(self._registry, credentials)
        self._authorization: str | None = None
        self._renewing = threading.Lock()

    def files(self) -> list[RemoteFile]:
        url = f"{self._web.base}/v2/{self._repository}/manifests/{self._reference}"
        with self._get(url, {"Accept": f"{MANIFEST}, {INDEX}"}) as response:
            self._web.check(response, url)
            text = self._web.body(response, url)
        if self._digest and f"sha256:{hashlib.sha256(text).hexdigest()}" != self._digest:
            raise SourceError(
                "DigestMismatch", f"the manifest that {self._registry} sends is not {self._digest}"
            )
        return read_manifest(text)

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, end: int) -> Iterator[Iterator[bytes]]:
        wanted = range_header(start, end, file.size)
        url = f"{self._web.base}/v2/{self._repository}/blobs/{file.key}"
        with (
            self._get(url, wanted) as response,
            self._web.ranged(response, url, start, file.size, ranged=bool(wanted)) as chunks,
        ):
            yield chunks

    def close(self) -> None:
        self._web.close()

    @contextlib.contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """A request that answers one challenge: at first, and when a token has expired."""
        used = self._authorization
        with self._web.get(url, {**headers, **_authorized(used)}) as response:
            challenge = response.headers.get("www-authenticate", "")
            if response.status_code != 401 or not self._may_send_to(response):
                yield response
                return
        self._renew(used, challenge)
        with self._web.get(url, {**headers, **_authorized(self._authorization)}) as response:
            yield response

    def _may_send_to(self, response: httpx.Response) -> bool:
        """False for the challenge of a host that a blob was redirected to: it gets nothing of ours."""
        return str(response.url).startswith(f"{self._web.base}/")

    def _renew(self, used: str | None, challenge: str) -> None:
        with self._renewing:
            if self._authorization == used:  # else another thread has just done so
                self._authorization = self._answer(challenge)

    def _answer(self, challenge: str) -> str | None:
        """The ``Authorization`` that answers ``challenge``; None where there is nothing to answer with."""
        scheme, _, rest = challenge.partition(" ")
        basic = f"Basic {self._login}" if self._login else None
        if scheme.lower() != "bearer":
            return basic
        parts = dict(CHALLENGE.findall(rest))
        query = {"service": parts.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        realm = check_endpoint(parts.get("realm", ""))
        answer, _ = self._web.json(f"{realm}?{urlencode(query)}", _authorized(basic))
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise SourceError("AccessDenied", f"{realm} gives no token for {self._repository}")
        return f"Bearer {token}"


def default_endpoint(registry: str) -> str:
    """https, but for a registry on this host's loopback interface."""
    if registry == "docker.io":
        return "https://registry-1.docker.io"
    host = httpx.URL(f"http://{registry}").host
    return f"http://{registry}" if host in LOOPBACK else f"https://{registry}"


def read_manifest(text: bytes) -> list[RemoteFile]:
    """The files of an artifact's manifest. Raises SourceError (FetchFailed, NotAPipeline)."""
    try:
        manifest = json.loads(text)
        if "manifests" in manifest:
            raise SourceError("NotAPipeline", "the artifact is an index; name one of its manifests by digest")
        layers = manifest["layers"]
        if len(layers) > MAX_LISTED:
            raise SourceError("FetchFailed", f"the artifact has more than {MAX_LISTED} layers")
        return [_file(layer) for layer in layers if TITLE in (layer.get("annotations") or {})]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise SourceError("FetchFailed", "the registry's answer is not an OCI manifest") from None


def _file(layer: dict[str, Any]) -> RemoteFile:
    annotations = layer["annotations"]
    name, digest, size = str(annotations[TITLE]), str(layer["digest"]), int(layer["size"])
    if annotations.get(UNPACK) == "true":
        raise SourceError(
            "NotAPipeline", f"the layer {name} is a packed folder; push each of its files as a layer"
        )
    if not DIGEST.fullmatch(digest):
        raise SourceError("FetchFailed", f"the layer {name} has no sha256 digest")
    return RemoteFile(name, size, digest.removeprefix("sha256:"), digest, digest)


def login(registry: str, credentials: Credentials) -> str | None:
    """``user:password`` in base64 for ``registry``, or None. Raises SourceError (AccessDenied)."""
    user, password = credentials.get("username"), credentials.get("password")
    if user and password:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    config = credentials.get(".dockerconfigjson")
    return None if config is None else _docker_login(registry, config)


def _docker_login(registry: str, config: str) -> str | None:
    try:
        for server, entry in json.loads(config)["auths"].items():
            if _host(server) != _host(registry):
                continue
            if entry.get("auth"):
                return str(entry["auth"])
            return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise SourceError(
            "AccessDenied", "the Secret's .dockerconfigjson is not a docker config.json"
        ) from None
    return None


def _host(server: str) -> str:
    """The registry that a key of a docker config means: "https://index.docker.io/v1/" is docker.io."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host


def _authorized(authorization: str | None) -> dict[str, str]:
    return {"Authorization": authorization} if authorization else {}

"""A thin client of the API server: raw JSON over one aiohttp session, with the credentials of
``kubernetes.aio``.

The generated client's models validate strictly in both directions and cost more than the request; the
operator reads plain objects and writes by server-side apply.
"""

import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from imagefleet_operator import metrics
from imagefleet_operator.kinds import POD, Kind
from imagefleet_operator.plan.types import Json

FIELD_MANAGER = "imagefleet-operator"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
PAGE = 500
REQUEST_SECONDS = 30.0


class ApiError(Exception):
    """The API server answered with an error. ``status`` is the HTTP status, ``reason`` and ``message`` its
    words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def refused(self) -> bool:
        """Whether the request itself is at fault, so that only a change of something mends it."""
        return self.status in (400, 403, 413, 422)


class ApiUnreachableError(Exception):
    """The API server did not answer."""


class CredentialsError(Exception):
    """Neither a kubeconfig nor a pod's service account can be read."""


async def load_configuration() -> Configuration:
    """Credentials from $KUBECONFIG where it is set, else those of the pod. Raises CredentialsError."""
    configuration = Configuration()
    try:
        if os.environ.get("KUBECONFIG"):
            await load_kube_config(
                config_file=os.environ["KUBECONFIG"], client_configuration=configuration, persist_config=False
            )
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise CredentialsError(
            f"no access to a cluster: {error} (set KUBECONFIG, or run in a pod with a service account)"
        ) from error
    return configuration


async def bearer(configuration: Configuration) -> str | None:
    """The ``Authorization`` header, read anew where it comes from a file that is rotated; None for
    certificates."""
    token: str | None = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    return token


def ssl_context(configuration: Configuration) -> ssl.SSLContext:
    """TLS as the credentials say: their authority, their certificate, and whether to verify at all."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class KubeClient:
    """Requests to the API server. Every method raises ApiError and ApiUnreachableError."""

    def __init__(self, configuration: Configuration, connections: int = 64) -> None:
        self._configuration = configuration
        self._base = configuration.host.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=ssl_context(configuration)),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=10),
            proxy=configuration.proxy,
            headers={"Accept": "application/json", "User-Agent": FIELD_MANAGER},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object, or None where there is none of that name."""
        try:
            return await self._request("GET", kind, kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Json]:
        """Every object of the kind that its selector selects, in a namespace or in all, page by page."""
        async for page in self._pages(kind, namespace):
            for item in page.get("items") or ():
                yield item

    async def snapshot(self, kind: Kind) -> tuple[Sequence[Json], str]:
        """Every object of the kind, and the version from which to watch what happens to them."""
        pages = [page async for page in self._pages(kind, None)]
        found = [item for page in pages for item in page.get("items") or ()]
        return found, pages[0]["metadata"]["resourceVersion"]

    async def watch(self, kind: Kind, version: str, seconds: int) -> AsyncIterator[Json]:
        """What happens to objects of the kind after ``version``, as the API's events, for so long at most."""
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(seconds)}
        path = kind.path()
        try:
            async with self._session.get(
                self._base + path,
                params=query,
                headers=await self._headers(),
                timeout=aiohttp.ClientTimeout(total=seconds + REQUEST_SECONDS, sock_connect=10),
            ) as response:
                if response.status != 200:
                    _answer(response.status, await response.read())
                async for line in _lines(response):
                    yield json.loads(line)
        except (aiohttp.ClientError, ConfigException, TimeoutError, OSError, ValueError) as error:
            raise ApiUnreachableError(f"WATCH {path}: {str(error) or type(error).__name__}") from error

    async def _pages(self, kind: Kind, namespace: str | None) -> AsyncIterator[Json]:
        query = {"limit": str(PAGE)} | ({"labelSelector": kind.selector} if kind.selector else {})
        token = ""
        while True:
            page = await self._request(
                "GET", kind, kind.path(namespace), query | ({"continue": token} if token else {})
            )
            yield page
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    async def apply(self, kind: Kind, body: Json, subresource: str | None = None) -> Json:
        """Server-side apply: the fields of ``body``, and no others, are ours from now on."""
        metadata = body["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", kind, path, query, body, APPLY)

    async def merge(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        """A merge patch of an object that someone else makes."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", kind, kind.path(namespace, name), query, body, MERGE)

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Create an object."""
        return await self._request("POST", kind, kind.path(namespace), {}, body)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> Json:
        """Delete this very object (else ApiError 409); its own children go with it."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        return await self._request("DELETE", kind, kind.path(namespace, name), {}, body)

    async def evict(self, namespace: str, name: str, uid: str) -> Json:
        """Have this very pod end (else ApiError 409), as its disruption budget allows (else ApiError 429)."""
        metadata = {"namespace": namespace, "name": name}
        options = {"preconditions": {"uid": uid}}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options}
        return await self._request("POST", POD, POD.path(namespace, name, "eviction"), {}, body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        """Replace an object; its resourceVersion, where given, must be the current one (else ApiError
        409)."""
        return await self._request("PUT", kind, kind.path(namespace, name), {}, body)

    async def _headers(self) -> dict[str, str]:
        token = await bearer(self._configuration)
        return {"Authorization": token} if token else {}

    async def _request(
        self,
        verb: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        started = perf_counter()
        outcome = "unreachable"
        try:
            headers = {"Content-Type": content_type, **await self._headers()}
            async with self._session.request(
                verb, self._base + path, params=query, data=data, headers=headers
            ) as response:
                raw = await response.read()
                outcome = str(response.status)
                return _answer(response.status, raw)
        except (aiohttp.ClientError, ConfigException, TimeoutError, OSError) as error:
            raise ApiUnreachableError(f"{verb} {path}: {str(error) or type(error).__name__}") from error
        finally:
            metrics.observe_request(verb, kind.kind, outcome, perf_counter() - started)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """aiohttp's own lines are at most 128 KiB long; a Node that names its images is longer."""
    rest = b""
    async for part in response.content.iter_any():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line


def _answer(status: int, raw: bytes) -> Json:
    body: Any
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {"message": raw[:200].decode(errors="replace")} if status >= 400 else None
    if body is None:
        raise ApiUnreachableError(f"an answer of status {status} that is no JSON object")
    answer: Json = body
    if status >= 400:
        raise ApiError(status, str(answer.get("reason") or ""), str(answer.get("message") or ""))
    return answer
